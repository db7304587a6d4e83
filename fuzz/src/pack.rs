//! A pack: its tail, its list of chunks, and the chunks.

use amberfs::format::FormatError;
use amberfs::format::codec::{self, Codec, Compression};
use amberfs::format::header::CHUNK_SIZE_MAX;
use amberfs::format::pack::{HEAD_LENGTH, PackEntry, PackTail, TAIL_LENGTH, decode_footer, encode_footer};
use amberfs::types::ChunkId;
use sha2::{Digest, Sha256};

use super::input::Input;

const ENTRY_LENGTH: usize = 48;
/// So many chunks of a pack are decoded.
const DECODED_MAX: usize = 8;

pub fn look(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 4 {
        0 => check_pack(rest),
        1 => check_pack(&sealed(rest)),
        2 => built(rest),
        _ => chunk(rest),
    }
}

fn decode(pack: &[u8]) -> Result<(u64, Vec<PackEntry>), FormatError> {
    let tail = pack.last_chunk::<TAIL_LENGTH>().ok_or(FormatError::TooShort { what: "pack" })?;
    let tail = PackTail::decode(tail, pack.len() as u64)?;
    let footer = pack.get(tail.chunks_end() as usize..).expect("a footer within the pack");
    Ok((tail.chunks_end(), decode_footer(tail, footer)?))
}

fn check_pack(pack: &[u8]) {
    let Ok((chunks_end, entries)) = decode(pack) else { return };
    for entry in &entries {
        let end = u64::from(entry.offset) + u64::from(entry.stored_length);
        assert!(u64::from(entry.offset) >= HEAD_LENGTH && end <= chunks_end);
        assert!(u64::from(entry.plain_length) <= CHUNK_SIZE_MAX);
        assert!(entry.stored_length <= entry.plain_length, "more is read than a chunk can be");
    }
    let mut again = pack[..chunks_end as usize].to_vec();
    again.extend(encode_footer(&entries, chunks_end));
    assert_eq!(decode(&again).unwrap(), (chunks_end, entries.clone()));
    for entry in entries.iter().take(DECODED_MAX) {
        let stored = &pack[entry.offset as usize..][..entry.stored_length as usize];
        check_chunk(entry.codec, stored, entry.plain_length as usize);
    }
}

/// Makes the last bytes the list of chunks of a pack whose checksum is right.
fn sealed(data: &[u8]) -> Vec<u8> {
    let Some((count, body)) = data.split_first() else { return Vec::new() };
    let count = (usize::from(*count) % 16).min(body.len() / ENTRY_LENGTH);
    let chunks_end = body.len() - count * ENTRY_LENGTH;
    let mut pack = body.to_vec();
    pack.extend_from_slice(b"AMBRPEND\x01\0\0\0");
    pack.extend_from_slice(&(count as u32).to_le_bytes());
    pack.extend_from_slice(&(chunks_end as u64).to_le_bytes());
    pack.extend_from_slice(&[0; 8]);
    let digest = Sha256::digest(&pack[chunks_end..]);
    pack.extend_from_slice(&digest);
    pack
}

/// Chunks as a writer stores them come back.
fn built(data: &[u8]) {
    let mut input = Input::new(data);
    let level = i32::from(input.byte() % 4);
    let compression = if level == 0 { Compression::None } else { Compression::Zstd { level } };
    let (mut pack, mut entries, mut stored, mut chunks) = (vec![0; 16], Vec::new(), Vec::new(), Vec::new());
    while !input.is_empty() && chunks.len() < 16 {
        let (repeats, length) = (1 + input.below(300) as usize, input.below(2048) as usize);
        let plain = input.bytes(length).repeat(repeats);
        let codec = codec::compress(compression, &plain, &mut stored);
        entries.push(PackEntry {
            id: ChunkId::of(&plain),
            offset: pack.len() as u32,
            stored_length: stored.len() as u32,
            plain_length: plain.len() as u32,
            codec,
        });
        pack.extend_from_slice(&stored);
        chunks.push(plain);
    }
    let chunks_end = pack.len() as u64;
    pack.extend(encode_footer(&entries, chunks_end));
    assert_eq!(decode(&pack).unwrap(), (chunks_end, entries.clone()));
    for (entry, plain) in entries.iter().zip(&chunks) {
        let stored = &pack[entry.offset as usize..][..entry.stored_length as usize];
        let mut decoded = vec![0xa5; plain.len()];
        codec::decompress(entry.codec, stored, &mut decoded).unwrap();
        assert!(decoded == *plain);
    }
}

/// One chunk, raw or a stream of zstd that was changed in places.
fn chunk(data: &[u8]) {
    let mut input = Input::new(data);
    let (codec, length) =
        (if input.byte().is_multiple_of(8) { Codec::Raw } else { Codec::Zstd }, input.number(3) as usize);
    let changes: Vec<(usize, u8)> =
        (0..input.below(8)).map(|_| (input.number(2) as usize, input.byte())).collect();
    let rest = input.rest();
    check_chunk(codec, rest, length.min(CHUNK_SIZE_MAX as usize));
    let mut stored = Vec::new();
    codec::compress(Compression::Zstd { level: 1 }, &rest.repeat(4), &mut stored);
    for (at, byte) in changes {
        let at = at % stored.len().max(1);
        if let Some(place) = stored.get_mut(at) {
            *place ^= byte;
        }
    }
    check_chunk(Codec::Zstd, &stored, rest.len() * 4);
}

/// What is decoded is as long as was said, or refused.
fn check_chunk(codec: Codec, stored: &[u8], plain_length: usize) {
    let mut plain = vec![0; plain_length];
    if codec::decompress(codec, stored, &mut plain).is_err() {
        return;
    }
    for other in [plain_length.wrapping_sub(1), plain_length + 1] {
        if other <= CHUNK_SIZE_MAX as usize {
            assert!(codec::decompress(codec, stored, &mut vec![0; other]).is_err(), "two lengths are right");
        }
    }
    let mut again = Vec::new();
    let codec = codec::compress(Compression::Zstd { level: 1 }, &plain, &mut again);
    let mut decoded = vec![0; plain_length];
    codec::decompress(codec, &again, &mut decoded).unwrap();
    assert!(decoded == plain);
}
