//! The protocol of control files, without a kernel.

use super::*;

/// Answers with what it was given; refuses what begins with `no`.
struct Echo;

impl CommandRunner for Echo {
    fn run(&self, file: &str, caller: Caller, text: &[u8]) -> CommandOutcome {
        let text = String::from_utf8_lossy(text);
        assert!(!text.starts_with("panic"), "a fault in a command");
        let refusal = text.starts_with("no").then_some(RefusalKind::VolumeInUse);
        CommandOutcome { answer: format!("{file} {} {}", caller.uid, text.len()), refusal }
    }
}

fn files() -> Arc<ControlFiles> {
    Arc::new(ControlFiles::new(Arc::new(Echo)))
}

fn open(files: &Arc<ControlFiles>, uid: u32) -> Arc<OpenControl> {
    Arc::new(OpenControl::new("backup", uid, Arc::clone(files)))
}

fn caller(uid: u32) -> Caller {
    Caller { uid, gid: 0, pid: 1 }
}

fn write(control: &Arc<OpenControl>, offset: u64, text: &[u8]) -> Option<Result<(), VfsError>> {
    match control.write(caller(7), offset, text).unwrap() {
        Written::Stored | Written::Piece => None,
        Written::Complete(execution) => Some(execution.run()),
    }
}

fn read(control: &OpenControl, offset: u64, length: usize) -> String {
    let mut bytes = vec![0; length];
    let length = control.read(offset, &mut bytes);
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

#[test]
fn a_line_is_run_at_once_and_its_answer_is_read_from_there_or_from_the_beginning() {
    let control = open(&files(), 7);
    assert!(write(&control, 0, b"vol\n").unwrap().is_ok());
    assert_eq!(read(&control, 4, 100), "backup 7 4");
    assert_eq!(read(&control, 14, 100), "", "a reader that goes on comes to an end");
    assert_eq!(read(&control, 0, 6), "backup", "a reader that went back to the beginning");
    assert_eq!(read(&control, 6, 100), " 7 4", "and goes on beyond the position of the write");
    assert!(write(&control, 10, b"other").unwrap().is_ok());
    assert_eq!(read(&control, 15, 100), "backup 7 5");
}

#[test]
fn a_refusal_fails_the_write_and_is_read_where_the_position_stayed() {
    let control = open(&files(), 7);
    assert!(write(&control, 0, b"vol\n").unwrap().is_ok());
    let refused = write(&control, 4, b"no such\n").unwrap();
    assert!(matches!(refused, Err(VfsError::Refused { kind: RefusalKind::VolumeInUse })));
    assert_eq!(read(&control, 4, 100), "backup 7 8");
}

#[test]
fn the_same_user_reads_the_answer_in_another_opening_and_nobody_else_does() {
    let files = files();
    let early = open(&files, 7);
    assert_eq!(read(&early, 0, 100), "");
    assert!(write(&open(&files, 7), 0, b"vol\n").unwrap().is_ok());
    assert_eq!(read(&open(&files, 7), 0, 100), "backup 7 4");
    assert_eq!(read(&early, 0, 100), "backup 7 4");
    assert_eq!(read(&open(&files, 8), 0, 100), "");
    let other = Arc::new(OpenControl::new("cancel", 7, files));
    assert_eq!(read(&other, 0, 100), "");
}

#[test]
fn answers_gather_until_they_are_read_and_a_refusal_stands_alone() {
    let files = files();
    let control = open(&files, 7);
    assert!(write(&control, 0, b"a\n").unwrap().is_ok());
    assert!(write(&control, 2, b"bb\n").unwrap().is_ok());
    assert_eq!(read(&open(&files, 7), 0, 100), "backup 7 2backup 7 3");
    assert_eq!(read(&control, 5, 100), "backup 7 2backup 7 3");
    assert!(write(&control, 5, b"ccc\n").unwrap().is_ok());
    assert_eq!(read(&open(&files, 7), 0, 100), "backup 7 4");
    assert!(write(&control, 9, b"no\n").unwrap().is_err());
    assert_eq!(read(&open(&files, 7), 0, 100), "backup 7 3");
    assert!(write(&control, 9, b"dddd\n").unwrap().is_ok());
    assert_eq!(read(&control, 14, 100), "backup 7 5");
}

#[test]
fn pieces_are_one_text_that_ends_with_a_line_a_short_piece_or_the_close() {
    for (last, runs_on_close) in [(&b"end\n"[..], false), (b"end", false), (&[b'x'; 5000], true)] {
        let control = open(&files(), 7);
        let piece = [b'x'; 4096];
        assert!(write(&control, 0, &piece).is_none());
        assert!(write(&control, 4096, &piece).is_none());
        let run = write(&control, 8192, last);
        assert_eq!(run.is_none(), runs_on_close);
        let left = control.close(caller(7));
        assert_eq!(left.is_some(), runs_on_close);
        left.map_or(Ok(()), Execution::run).unwrap();
        let expected = format!("backup 7 {}", 8192 + last.len());
        assert_eq!(read(&control, 8192 + last.len() as u64, 100), expected);
        assert!(control.close(caller(7)).is_none(), "it is run once");
    }
}

#[test]
fn a_text_without_an_end_is_not_kept_for_ever() {
    let control = open(&files(), 7);
    let piece = [b'x'; 65_536];
    for number in 0..16 {
        assert!(write(&control, number * 65_536, &piece).is_none());
    }
    assert!(matches!(control.write(caller(7), 1 << 20, b"x\n"), Err(VfsError::CommandsTooLong { .. })));
    assert!(matches!(control.write(caller(7), 1 << 20, b"rest\n"), Err(VfsError::CommandsTooLong { .. })));
    assert!(control.close(caller(7)).is_none(), "nothing of it is run, and no rest of it");
}

#[test]
fn a_fault_in_a_command_is_a_refusal() {
    let control = open(&files(), 7);
    let refused = write(&control, 0, b"panic\n").unwrap();
    assert!(matches!(refused, Err(VfsError::Refused { kind: RefusalKind::Failed })));
    assert!(read(&control, 0, 100).starts_with("error: Failed: "));
}

#[test]
fn answers_are_kept_in_bounded_memory() {
    let files = files();
    for uid in 0..1000 {
        files.keep("backup", uid, "x".repeat(100_000).into());
    }
    let answers = lock(&files.answers);
    assert!(answers.bytes <= ANSWERS_BYTES_MAX && answers.by_file_and_uid.len() <= ANSWERS_MAX);
    drop(answers);
    assert!(files.last("backup", 999).is_some() && files.last("backup", 0).is_none());
}
