//! Which volume a file is. Pure rules: the file `NAME.raw`, `NAME.img` or `NAME` is the volume NAME, and when several of
//! them exist each is called by its full file name. A full file name always finds its file.

use std::collections::{BTreeMap, BTreeSet};

/// Files whose names begin so are ours and no volumes.
pub(super) const RESERVED: &str = ".amberfs-";

/// What a file name can hold: NAME_MAX of every file system that has leases or reflinks.
pub(super) const FILE_NAME_BYTES_MAX: usize = 255;

const ENDINGS: [&str; 2] = [".raw", ".img"];

/// Says why a directory can have no volume of this name.
pub(super) fn check(name: &str) -> Result<(), &'static str> {
    if name.contains('/') {
        return Err("it holds a slash");
    }
    if name == "." || name == ".." {
        return Err("it stands for a folder");
    }
    if name.starts_with(RESERVED) {
        return Err("names that start so are used by amberfs itself");
    }
    if name.len() > FILE_NAME_BYTES_MAX {
        return Err("it is longer than 255 bytes");
    }
    Ok(())
}

/// Returns the ending that makes a file an image; empty when it has none.
pub(super) fn ending(file_name: &str) -> &str {
    let (_stem, ending) = split(file_name);
    ending
}

/// Returns the files that may be the volume, the one of that very name first.
pub(super) fn candidates(name: &str) -> impl Iterator<Item = String> {
    ["", ".raw", ".img"].into_iter().map(move |ending| format!("{name}{ending}"))
}

/// Returns the files any of which makes it ambiguous, or changes, what this file is called.
pub(super) fn rivals(file_name: &str) -> impl Iterator<Item = String> {
    let (stem, _ending) = split(file_name);
    candidates(stem)
}

/// Returns the file name for a new volume: with the ending unless it has one already or has no room for it.
pub(super) fn new_file_name(name: &str, ending: &str) -> String {
    let has_one = !self::ending(name).is_empty();
    if has_one || name.len() + ending.len() > FILE_NAME_BYTES_MAX {
        return name.to_owned();
    }
    format!("{name}{ending}")
}

/// Returns what the volume in a file is called, given which other files exist.
pub(super) fn volume_name(file_name: &str, exists: impl Fn(&str) -> bool) -> &str {
    let (stem, _ending) = split(file_name);
    let alone = candidates(stem).all(|rival| rival == file_name || !exists(&rival));
    if alone { stem } else { file_name }
}

/// Returns the volumes in a directory of these files, sorted.
pub(super) fn volume_names(file_names: &BTreeSet<String>) -> Vec<String> {
    let name = |file: &String| (volume_name(file, |other| file_names.contains(other)).to_owned(), ());
    file_names.iter().map(name).collect::<BTreeMap<_, _>>().into_keys().collect()
}

/// Splits off the ending, unless nothing that can be a name would be left.
fn split(file_name: &str) -> (&str, &str) {
    for ending in ENDINGS {
        if let Some(stem) = file_name.strip_suffix(ending)
            && !matches!(stem, "" | "." | "..")
        {
            return (stem, ending);
        }
    }
    (file_name, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(files: &[&str]) -> Vec<String> {
        volume_names(&files.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_file_is_called_without_its_ending_unless_that_is_ambiguous() {
        assert_eq!(listed(&["b.img", "a.raw", "c", "d.qcow2"]), ["a", "b", "c", "d.qcow2"]);
        assert_eq!(listed(&["a.raw", "a.img"]), ["a.img", "a.raw"]);
        assert_eq!(listed(&["a.raw", "a"]), ["a", "a.raw"]);
        assert_eq!(
            listed(&[".raw", "..raw", "...raw", ".x.raw", "-.img"]),
            ["-", "...raw", "..raw", ".raw", ".x"]
        );
    }

    #[test]
    fn no_two_files_have_one_name_and_every_name_leads_to_its_file() {
        let words = ["a", "a.raw", "a.img", "a.raw.raw", "a.raw.img", "a.img.raw", "b.raw"];
        for chosen in 0..1_u32 << words.len() {
            let files: BTreeSet<String> = words
                .iter()
                .enumerate()
                .filter(|(bit, _)| chosen >> bit & 1 == 1)
                .map(|(_, word)| (*word).to_owned())
                .collect();
            let names = volume_names(&files);
            assert_eq!(names.len(), files.len(), "{files:?}");
            for file in &files {
                let name = volume_name(file, |other| files.contains(other));
                let mut found = candidates(name).filter(|candidate| files.contains(candidate));
                assert_eq!(found.next().as_ref(), Some(file), "{name} in {files:?}");
            }
        }
    }

    #[test]
    fn a_new_volume_gets_an_ending_when_it_has_none_and_there_is_room() {
        assert_eq!(new_file_name("v", ".raw"), "v.raw");
        assert_eq!(new_file_name("v.img", ".raw"), "v.img");
        assert_eq!(new_file_name("v", ""), "v");
        let (fits, too_long) = ("x".repeat(251), "x".repeat(252));
        assert_eq!(new_file_name(&fits, ".raw"), format!("{fits}.raw"));
        assert_eq!(new_file_name(&too_long, ".raw"), too_long);
    }
}
