//! Manifests through the reader that amberfs has, and the images of chains of them against a simple model.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use amberfs::format::codec::Compression;
use amberfs::format::manifest::{
    EXTENTS_PER_LEAF, HEAD_LENGTH, ManifestExtent, PageReference, TAIL_LENGTH, Tail, Target, checksum,
    decode_leaf, decode_references, encode_leaf, encode_references,
};
use amberfs::format::record::ManifestReference;
use amberfs::image::{Image, ImageCaches};
use amberfs::index::ChunkIndex;
use amberfs::objects::{ObjectName, ObjectStore};
use amberfs::store::{ChunkStore, ManifestReader, ManifestWriter, PageCache};
use amberfs::types::{ByteRange, ChunkId, ManifestId, RepositoryId};

use super::input::Input;
use super::memory::MemoryStore;
use super::sealed::hexadecimal;

const REFERENCE_LENGTH: usize = 64;
const ALL: ByteRange = ByteRange::new(0, u64::MAX);

pub fn look(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 5 {
        0 => pages(rest),
        1 => read(rest.to_vec()),
        2 => read(sealed(rest)),
        3 => read(tree(&mut Input::new(rest))),
        _ => images(&mut Input::new(rest)),
    }
}

/// The decoders alone: what they take is the same when it is encoded again.
fn pages(data: &[u8]) {
    if let Ok(references) = decode_references(data) {
        assert!(encode_references(&references) == data);
    }
    let mut input = Input::new(data);
    let range = ByteRange::between(input.number(2), input.number(8));
    if let Ok(leaf) = decode_leaf(input.rest(), range) {
        assert!(leaf.extents.len() <= EXTENTS_PER_LEAF);
        assert!(leaf.extents.windows(2).all(|pair| pair[0].range.end() <= pair[1].range.start()));
        assert_eq!(decode_leaf(&encode_leaf(&leaf.extents), range).as_ref(), Ok(&leaf));
        let middle = ByteRange::between(range.start() + range.len() / 3, range.end() - range.len() / 3);
        let met = leaf.extents.iter().filter(|extent| !extent.range.intersection(middle).is_empty());
        assert!(middle.is_empty() || met.eq(leaf.overlapping(middle)));
    }
}

fn reference_to(id: ManifestId, manifest: &[u8]) -> ManifestReference {
    let tail = &manifest[manifest.len().saturating_sub(TAIL_LENGTH)..];
    ManifestReference { id, length: manifest.len() as u64, tail_sha256: hexadecimal(&checksum(tail)) }
}

/// Reads a manifest that anybody may have written.
fn read(manifest: Vec<u8>) {
    let objects = Arc::new(MemoryStore::default());
    let id = ManifestId::from_bytes([7; 16]);
    let (length, reference) = (manifest.len() as u64, reference_to(id, &manifest));
    objects.insert(ObjectName::Manifest(id), manifest);
    let store: Arc<dyn ObjectStore> = Arc::clone(&objects) as _;
    let opened = ManifestReader::open(store, Arc::new(PageCache::new(1 << 20)), &reference);
    let (reads, bytes) = objects.cost();
    assert!(reads <= 2 && bytes <= length, "opened with {reads} reads of {bytes} bytes");
    let Ok(reader) = opened else { return };
    let _ = reader.about();
    let (mut end, mut count) = (0, 0_u64);
    let _ = reader.visit(ALL, |extent| {
        assert!(extent.range.start() >= end && !extent.range.is_empty(), "out of order");
        (end, count) = (extent.range.end(), count + 1);
        true
    });
    let (reads, bytes) = objects.cost();
    // Each page is looked at once, and each has its own reference.
    let pages = length / REFERENCE_LENGTH as u64;
    assert!(reads <= 1 + pages, "{reads} reads of a manifest of {length} bytes");
    assert!(bytes <= reads << 20, "{bytes} bytes in {reads} reads");
    assert!(count <= pages * EXTENTS_PER_LEAF as u64, "{count} extents of a manifest of {length} bytes");
    let part = ByteRange::new(end / 3, end / 5);
    let _ = reader.visit(part, |extent| {
        assert!(!extent.range.intersection(part).is_empty());
        extent.range.start() % 7 != 0
    });
}

/// Seals any bytes: the last ones are references to pages of references to pages, and the tail says so.
fn sealed(data: &[u8]) -> Vec<u8> {
    let mut input = Input::new(data);
    let (roots, branches) = (input.below(8) as usize, input.below(16) as usize);
    let size_bytes = input.number(6);
    let mut body = vec![0; HEAD_LENGTH as usize];
    body.extend_from_slice(input.rest());
    let root_at = body.len().saturating_sub(roots * REFERENCE_LENGTH).max(HEAD_LENGTH as usize);
    let branches_at = root_at.saturating_sub(branches * REFERENCE_LENGTH).max(HEAD_LENGTH as usize);
    // Each level below the one before, so that what is sealed does not change any more.
    seal(&mut body, branches_at, root_at);
    let end = body.len();
    seal(&mut body, root_at, end);
    finished(body, root_at, size_bytes)
}

fn seal(body: &mut [u8], from: usize, to: usize) {
    for at in (from..to).step_by(REFERENCE_LENGTH) {
        let Some(reference) = body.get(at..at + REFERENCE_LENGTH) else { return };
        let mut fields = Input::new(reference);
        let (_, _, position) = (fields.number(8), fields.number(8), fields.number(8) as usize);
        let length = fields.number(4) as usize;
        let page = position.checked_add(length).and_then(|end| body.get(position..end));
        if let Some(digest) = page.map(checksum) {
            body[at + 32..at + 64].copy_from_slice(&digest);
        }
    }
}

/// Puts about and tail behind a root.
fn finished(mut body: Vec<u8>, root_at: usize, size_bytes: u64) -> Vec<u8> {
    let about = b"about";
    let tail = Tail {
        size_bytes,
        extent_count: 1,
        chunk_bytes: 1,
        root_position: root_at as u64,
        root_length: (body.len() - root_at) as u64,
        about_position: body.len() as u64,
        about_length: about.len() as u64,
        root_sha256: checksum(&body[root_at..]),
        about_sha256: checksum(about),
    };
    body.extend_from_slice(about);
    body.extend_from_slice(&tail.encode());
    body
}

/// A manifest of whole pages, some of whose references say what is not so.
fn tree(input: &mut Input<'_>) -> Vec<u8> {
    let mut body = vec![0; HEAD_LENGTH as usize];
    let size_bytes = input.number(6);
    let (mut end, mut branches) = (0, Vec::new());
    for _ in 0..1 + input.below(4) {
        let mut leaves = Vec::new();
        for _ in 0..1 + input.below(4) {
            let extents = extents(input, &mut end, u64::MAX);
            let page = encode_leaf(&extents);
            leaves.push(reference(
                &mut body,
                spanned(extents.iter().map(|extent| extent.range)),
                &page,
                input,
            ));
        }
        let page = encode_references(&leaves);
        branches.push(reference(&mut body, spanned(leaves.iter().map(|leaf| leaf.range)), &page, input));
    }
    let root_at = body.len();
    body.extend_from_slice(&encode_references(&branches));
    finished(body, root_at, size_bytes)
}

fn spanned(mut ranges: impl Iterator<Item = ByteRange>) -> ByteRange {
    let Some(first) = ranges.next() else { return ByteRange::new(0, 0) };
    ByteRange::between(first.start(), ranges.last().unwrap_or(first).end())
}

fn reference(body: &mut Vec<u8>, range: ByteRange, page: &[u8], input: &mut Input<'_>) -> PageReference {
    let mut reference = PageReference {
        range,
        position: body.len() as u64,
        length: page.len() as u32,
        count: 0,
        sha256: checksum(page),
    };
    body.extend_from_slice(page);
    match input.byte() {
        250 => reference.range = ByteRange::between(input.number(2), range.end()),
        251 => reference.range = ByteRange::new(range.start(), input.number(8)),
        252 => reference.position = input.number(2),
        253 => reference.length = input.number(3) as u32,
        254 => {
            // Another page, and the right checksum of it.
            let length = input.number(2) as usize;
            let from = (input.number(2) as usize).min(body.len());
            let page = &body[from..(from + length).min(body.len())];
            (reference.position, reference.length) = (from as u64, page.len() as u32);
            reference.sha256 = checksum(page);
        }
        _ => {}
    }
    reference
}

/// Extents from `end` on, ascending, of at most `length` bytes each.
fn extents(input: &mut Input<'_>, end: &mut u64, size_bytes: u64) -> Vec<ManifestExtent> {
    let mut extents = Vec::new();
    for _ in 0..input.below(12) {
        let (kind, gap, length) = (input.byte(), input.number(2), 1 + input.number(2));
        let gap = if kind & 0x80 == 0 { 0 } else { gap };
        let range = ByteRange::new(end.saturating_add(gap), length).below(size_bytes);
        if range.is_empty() {
            break;
        }
        let target = match kind & 0x0f {
            0..=3 => Target::Zero,
            number => {
                let offset = if kind & 0x40 == 0 { 0 } else { input.number(2) as u32 };
                Target::Chunk { id: chunk_id(number), offset }
            }
        };
        *end = range.end();
        extents.push(ManifestExtent { range, target });
    }
    extents
}

/// The bytes of a chunk, by its number: what is at each offset tells both.
fn chunk(number: u8) -> Vec<u8> {
    let length = [512, 4096, 65_536, 65_536][usize::from(number % 4)];
    (0..length).map(|at: usize| (at >> 8) as u8 ^ at as u8 ^ number.wrapping_mul(41)).collect()
}

fn chunk_id(number: u8) -> ChunkId {
    ChunkId::of(&chunk(number))
}

struct World {
    objects: Arc<MemoryStore>,
    store: Arc<ChunkStore>,
}

/// A store with sixteen chunks. Opening an index takes longer than reading a manifest.
fn world() -> &'static Mutex<World> {
    static WORLD: OnceLock<Mutex<World>> = OnceLock::new();
    WORLD.get_or_init(|| {
        let objects = Arc::new(MemoryStore::default());
        let folder = std::env::temp_dir().join(format!("amberfs-fuzz-{}", RepositoryId::random()));
        std::fs::create_dir(&folder).unwrap();
        let index = ChunkIndex::open(&folder, RepositoryId::from_bytes([1; 16]), 1 << 20).unwrap();
        let as_objects: Arc<dyn ObjectStore> = Arc::clone(&objects) as _;
        let store = ChunkStore::open(as_objects, index, Compression::None, 4 << 20, None).unwrap();
        let session = store.session();
        let mut writer = session.writer();
        for number in 0..16 {
            writer.add(session.prepare(&chunk(number)).unwrap()).unwrap();
        }
        writer.finish().unwrap();
        store.flush_index().unwrap();
        // Its files stay open; nothing is written to it any more.
        std::fs::remove_dir_all(&folder).unwrap();
        Mutex::new(World { objects, store })
    })
}

/// What a byte of an image is.
#[derive(Clone, Copy, PartialEq)]
enum Byte {
    Open,
    Zero,
    Data(u8),
}

/// The image of a chain, byte by byte. `None` when some byte of it cannot be told.
fn model(layers: &[(u64, Vec<ManifestExtent>)]) -> Option<Vec<Byte>> {
    let mut image = vec![Byte::Open; layers.first()?.0 as usize];
    for (size_bytes, extents) in layers {
        for byte in image.iter_mut().skip(*size_bytes as usize) {
            if *byte == Byte::Open {
                *byte = Byte::Zero;
            }
        }
        for extent in extents {
            let bytes = match extent.target {
                Target::Zero => None,
                Target::Chunk { id, offset } => {
                    let chunk = (0..16).map(chunk).find(|chunk| ChunkId::of(chunk) == id)?;
                    Some(chunk.get(offset as usize..offset as usize + extent.range.len() as usize)?.to_vec())
                }
            };
            for (at, byte) in image
                .iter_mut()
                .skip(extent.range.start() as usize)
                .take(extent.range.len() as usize)
                .enumerate()
            {
                if *byte == Byte::Open {
                    *byte = bytes.as_ref().map_or(Byte::Zero, |bytes| Byte::Data(bytes[at]));
                }
            }
        }
    }
    (!image.contains(&Byte::Open)).then_some(image)
}

/// A chain of manifests as amberfs writes them: its image is what the model says.
fn images(input: &mut Input<'_>) {
    let world = world().lock().unwrap_or_else(PoisonError::into_inner);
    world.objects.keep_packs();
    let mut layers = Vec::new();
    let mut chain = Vec::new();
    for _ in 0..1 + input.below(4) {
        let size_bytes = if input.byte() < 250 { 1 + input.number(2) } else { 1 + input.below(5 << 20) };
        let mut end = 0;
        let mut all = Vec::new();
        for _ in 0..1 + input.below(6) {
            all.extend(extents(input, &mut end, size_bytes));
        }
        let mut writer = ManifestWriter::create(world.objects.as_ref(), size_bytes).unwrap();
        all.iter().for_each(|extent| writer.add(*extent).unwrap());
        // A chunk's run that goes on in the chunk may be longer than the chunk, and is then refused by the reader.
        chain.push(writer.finish("about").unwrap());
        layers.push((size_bytes, all));
    }
    let Some(newest) = layers.first().map(|(size_bytes, _)| *size_bytes) else { return };
    // What the last layer does not have is zeros, most of the time.
    if input.byte() < 200 {
        let mut writer = ManifestWriter::create(world.objects.as_ref(), newest).unwrap();
        let everything = ManifestExtent { range: ByteRange::new(0, newest), target: Target::Zero };
        writer.add(everything).unwrap();
        chain.push(writer.finish("about").unwrap());
        layers.push((newest, vec![everything]));
    }
    let image = Image::open(Arc::clone(&world.store), ImageCaches::new(1 << 20), &chain).unwrap();
    assert_eq!((image.size_bytes(), image.chain_length()), (newest, chain.len()));
    let mut bytes = vec![0xa5; newest as usize];
    let read = image.read(0, &mut bytes);
    let Some(model) = model(&layers) else { return };
    assert_eq!(read.unwrap() as u64, newest);
    let same = |(byte, model): (&u8, &Byte)| match model {
        Byte::Open => false,
        Byte::Zero => *byte == 0,
        Byte::Data(data) => data == byte,
    };
    assert!(bytes.iter().zip(&model).all(same), "the image is another one than the model says");
    let is_data = |byte: &&Byte| matches!(byte, Byte::Data(_));
    let range = ByteRange::new(0, newest);
    let allocated = model.iter().filter(is_data).count() as u64;
    assert_eq!(image.allocated_bytes(range).unwrap(), allocated);
    let from = input.below(newest);
    let (at, rest) = (from as usize, ByteRange::between(from, newest));
    let data = model[at..].iter().position(|byte| is_data(&byte)).map(|data| from + data as u64);
    assert_eq!(image.next_data(from).unwrap(), data);
    let hole = model[at..].iter().position(|byte| !is_data(&byte)).map_or(newest, |hole| from + hole as u64);
    assert_eq!(image.next_hole(from).unwrap(), hole);
    let mut end = from;
    image
        .segments(rest, |segment| {
            assert_eq!(segment.range.start(), end);
            end = segment.range.end();
        })
        .unwrap();
    assert_eq!(end, newest);
}
