//! FAT, compared with mtools: this kernel mounts none.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use amberfs::files::{FileKind, FilePath, FileSystemKind, FileTree, FilesError};

use crate::compare::entries;
use crate::images::{Workshop, run};
use crate::open;

/// Copies a folder into an image, and returns it.
fn filled(workshop: &Workshop) -> std::path::PathBuf {
    let folder = workshop.path("folder");
    fs::create_dir_all(folder.join("EFI/Boot")).unwrap();
    fs::create_dir_all(folder.join("EFI/a folder with a long name and \u{e4}\u{6f22}")).unwrap();
    for (name, length) in [
        ("EFI/Boot/BOOTX64.EFI", 300_000_usize),
        ("EFI/a folder with a long name and \u{e4}\u{6f22}/grub.cfg", 117),
        ("EFI/Boot/empty", 0),
        ("startup.nsh", 4096),
        ("lower.txt", 1),
    ] {
        let content: Vec<u8> = (0..length).map(|n| (n * 31 / 7) as u8).collect();
        File::create(folder.join(name)).unwrap().write_all(&content).unwrap();
    }
    fs::create_dir(folder.join("many")).unwrap();
    for number in 0..900 {
        let name = format!("many/a rather long name of file number {number}");
        File::create(folder.join(name)).unwrap().write_all(&[number as u8; 9]).unwrap();
    }
    folder
}

fn compare(tree: &FileTree, path: &FilePath, folder: &Path) -> usize {
    let listed = entries(tree, path).unwrap();
    let mut count = listed.len();
    assert_eq!(count, fs::read_dir(folder).unwrap().count(), "{path}");
    for entry in listed {
        let here = path.join(&entry.name).unwrap();
        let original = folder.join(str::from_utf8(&entry.name).unwrap());
        let metadata = tree.metadata(&here).unwrap();
        assert_eq!(metadata.kind, entry.kind);
        if metadata.kind == FileKind::Folder {
            count += compare(tree, &here, &original);
            continue;
        }
        let content = fs::read(&original).unwrap();
        assert_eq!(metadata.size_bytes, content.len() as u64, "{here}");
        let mut ours = vec![0; content.len() + 10];
        assert_eq!(tree.read(&here, 0, &mut ours).unwrap(), content.len(), "{here}");
        assert!(ours[..content.len()] == content, "{here}");
        let middle = content.len() / 2;
        assert_eq!(tree.read(&here, middle as u64, &mut ours).unwrap(), content.len() - middle);
        assert!(ours[..content.len() - middle] == content[middle..], "{here}");
    }
    count
}

#[test]
fn fat_of_every_width_is_read_as_mtools_wrote_it() {
    for (width, size) in [("12", 4_u64 << 20), ("16", 32 << 20), ("32", 64 << 20)] {
        let workshop = Workshop::new();
        let folder = filled(&workshop);
        let image = workshop.make(&["mkfs.vfat", "-F", width], size);
        let name = image.to_str().unwrap();
        let mut arguments = vec!["-i", name, "-s", "-m", "-Q"];
        let sources: Vec<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|entry| entry.unwrap().path().to_str().unwrap().to_owned())
            .collect();
        arguments.extend(sources.iter().map(String::as_str));
        arguments.push("::/");
        run("mcopy", &arguments);
        let tree = open(&image, FileSystemKind::Fat);
        assert!(compare(&tree, &FilePath::root(), &folder) > 900, "FAT{width}");

        crate::compare::assert_goes_on_anywhere(&tree, &FilePath::new(b"many").unwrap());

        let path = |name: &[u8]| FilePath::new(name).unwrap();
        assert_eq!(tree.metadata(&path(b"efi/BOOT/bootx64.efi")).unwrap().size_bytes, 300_000, "other case");
        assert!(matches!(tree.metadata(&path(b"EFI/none")), Err(FilesError::NotFound { .. })));
        assert!(matches!(tree.metadata(&path(b"lower.txt/x")), Err(FilesError::NotAFolder { .. })));
        assert!(matches!(tree.read(&path(b"EFI"), 0, &mut [0]), Err(FilesError::IsAFolder { .. })));
        assert!(matches!(tree.read(&FilePath::root(), 0, &mut [0]), Err(FilesError::IsAFolder { .. })));
        assert!(matches!(tree.read_link(&path(b"EFI")), Err(FilesError::NotALink { .. })));
        let modified = tree.metadata(&path(b"lower.txt")).unwrap().modified.seconds;
        let told = run("mdir", &["-i", name, "-a", "::/lower.txt"]);
        let date = run("date", &["-u", "-d", &format!("@{modified}"), "+%Y-%m-%d %k:%M"]);
        let date: Vec<&str> = date.split_whitespace().collect();
        assert!(date.iter().all(|part| told.contains(part)), "{date:?}: {told}");
    }
}
