//! The grammar of control lines, from both sides.

use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};

use super::*;
use crate::control::{
    BackupArgs, CancelArgs, DeleteArgs, FlattenArgs, NewState, ResetStateArgs, RestoreArgs, ScratchArgs,
    SetArgs, UnwritableWord, VerifyArgs, XfsUuidArgs,
};
use crate::types::{ByteRate, ByteSize};

fn refused(file: ControlFile, bytes: &[u8]) -> String {
    let refusal = parse_lines(file, bytes).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::InvalidInput);
    refusal.sentence
}

fn backup(volume: &str) -> BackupArgs {
    BackupArgs { volume: volume.to_owned(), ..BackupArgs::default() }
}

#[test]
fn the_lines_of_the_contract_parse() {
    let text = b"myvol10\n\n  # a comment\nmyvol10 --incremental --force --name myvol10-incr1\n\
        myvol10 --snapshot 'my snap' --name from-snap --property a=b=c --property d=\r\n";
    let expected = [
        backup("myvol10"),
        BackupArgs {
            incremental: true,
            force: true,
            name: Some("myvol10-incr1".into()),
            ..backup("myvol10")
        },
        BackupArgs {
            snapshot: Some("my snap".into()),
            name: Some("from-snap".into()),
            properties: vec![("a".into(), "b=c".into()), ("d".into(), String::new())],
            ..backup("myvol10")
        },
    ];
    assert_eq!(parse_lines(ControlFile::Backup, text), Ok(expected.map(Command::Backup).to_vec()));

    let restore = RestoreArgs {
        backup: Some("myvol10-incr1".into()),
        to: Some("rbd/myvol-restored".into()),
        force: true,
        ..RestoreArgs::default()
    };
    assert_eq!(
        parse_lines(ControlFile::Restore, b"myvol10-incr1 --to rbd/myvol-restored --force"),
        Ok(vec![Command::Restore(restore)])
    );
    assert_eq!(
        parse_lines(ControlFile::Cancel, b"12\n"),
        Ok(vec![Command::Cancel(CancelArgs { job: "12".into() })])
    );
    let reset = |new_state, state| ResetStateArgs { backup: "b".into(), new_state, state };
    for (line, expected) in [
        ("b", reset(None, None)),
        ("b error", reset(Some(NewState::Error), None)),
        ("b --state available", reset(None, Some(NewState::Available))),
    ] {
        let parsed = parse_lines(ControlFile::ResetState, line.as_bytes());
        assert_eq!(parsed, Ok(vec![Command::ResetState(expected)]), "{line}");
    }
    let record = r#"amberfs-record 1 3 00 {"name":"it's # \\ \"quoted\""}"#;
    let imported = parse_lines(ControlFile::Import, format!("{record}\n").as_bytes());
    assert_eq!(imported, Ok(vec![Command::Import(ImportArgs { record: record.to_owned() })]));
}

#[test]
fn names_that_start_with_a_dash_stand_behind_two_dashes_or_an_equals_sign() {
    let expected = BackupArgs { force: true, name: Some("-n".into()), ..backup("-v") };
    for line in ["--force --name=-n -- -v", "--force '--name=-n' -- '-v'"] {
        let commands = parse_lines(ControlFile::Backup, line.as_bytes());
        assert_eq!(commands, Ok(vec![Command::Backup(expected.clone())]), "{line}");
    }
    assert_eq!(parse_lines(ControlFile::Backup, b"rbd/-v"), Ok(vec![Command::Backup(backup("rbd/-v"))]));
}

#[test]
fn a_refusal_names_the_line_the_word_and_what_is_accepted() {
    let usage = "usage: VOLUME [--name NAME] [--description TEXT] [--incremental] [--force] \
        [--snapshot SNAPSHOT] [--property KEY=VALUE]... [--protect]";
    let cases: [(&[u8], &str); 8] = [
        (b"a\nb --incremntal\n", "line 2: unexpected argument '--incremntal' found"),
        (b"-v", "line 1: unexpected argument '-v' found"),
        (b"a b", "line 1: unexpected argument 'b' found"),
        (b"a --name", "line 1: a value is required for '--name <NAME>' but none was supplied"),
        (
            b"a --property x",
            "line 1: invalid value 'x' for '--property <KEY=VALUE>': a property is written KEY=VALUE",
        ),
        (b"--force", "line 1: the following required arguments were not provided: <VOLUME>"),
        (b"a --help", "line 1: help is in README"),
        (b"a 'b", "line 1: a quote is not closed, or a backslash ends it: a 'b"),
    ];
    for (bytes, expected) in cases {
        let sentence = refused(ControlFile::Backup, bytes);
        assert!(sentence.starts_with(expected), "{sentence}");
        assert!(sentence.ends_with(usage), "{sentence}");
    }
    assert!(refused(ControlFile::Backup, b"a --incremntal").contains("'--incremental'"));
    assert!(refused(ControlFile::Restore, b"a --to b --name c").contains("'--to <VOLUME>'"));
}

#[test]
fn a_write_without_a_command_is_refused() {
    for bytes in [b"".as_slice(), b"\n", b"\n \t\n# x\n"] {
        assert!(refused(ControlFile::Cancel, bytes).starts_with("there is no command; usage: JOB"));
    }
    assert!(refused(ControlFile::Backup, b"''").starts_with("line 1: a value is required"));
}

#[test]
fn bytes_that_are_no_line_are_refused() {
    assert!(refused(ControlFile::Backup, b"a\n\xff").starts_with("line 2: it is not UTF-8: byte 1 "));
    assert!(refused(ControlFile::Backup, b"a\0").starts_with("line 1: it holds a NUL byte"));
    let long = vec![b'a'; LINE_BYTES_MAX + 1];
    assert!(refused(ControlFile::Backup, &long).starts_with("line 1: it has 65537 bytes"));
    assert!(parse_lines(ControlFile::Backup, &long[1..]).is_ok());
    let many = b"a\n".repeat(LINES_MAX + 1);
    assert!(refused(ControlFile::Cancel, &many).starts_with("line 10001: one write can hold 10000 lines"));
    assert_eq!(parse_lines(ControlFile::Cancel, &many[2..]).unwrap().len(), LINES_MAX);
}

#[test]
fn what_a_refusal_quotes_is_short_and_harmless_to_a_terminal() {
    let line = format!("a '\x07\x1b[2J{}", "x".repeat(60_000));
    let sentence = refused(ControlFile::Backup, line.as_bytes());
    assert!(sentence.contains("a '\\u{7}\\u{1b}[2Jxxx"), "{sentence}");
    assert!(sentence.len() < 1000, "{sentence}");
}

#[test]
fn a_word_that_no_line_can_carry_is_refused_when_written() {
    for (volume, what) in [("a\nb", "a line break"), ("a\0b", "a NUL byte")] {
        let error = Command::Backup(backup(volume)).to_line().unwrap_err();
        assert_eq!(error, UnwritableWord { word: volume.to_owned(), what });
    }
}

fn word() -> impl Strategy<Value = String> {
    let dashes = prop_oneof![Just(""), Just("-"), Just("--"), Just("--force"), Just("#"), Just("=")];
    let rest = prop_oneof!["[^\n\0]{0,20}", "[ '\"\\\\$`=\t\r~*-]{0,8}", Just("\u{fc}\u{1f600}".to_owned())];
    (dashes, rest).prop_map(|(dashes, rest)| format!("{dashes}{rest}"))
}

fn operand() -> impl Strategy<Value = String> {
    word().prop_filter("an operand is not empty", |word| !word.is_empty())
}

fn optional() -> impl Strategy<Value = Option<String>> {
    proptest::option::of(operand())
}

fn backup_args() -> impl Strategy<Value = BackupArgs> {
    let key = operand().prop_filter("keys", |key| !key.contains('='));
    let properties = proptest::collection::vec((key, word()), 0..3);
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (operand(), optional(), proptest::option::of(word()), optional(), properties, flags).prop_map(
        |(volume, name, description, snapshot, properties, (incremental, force, protect))| BackupArgs {
            volume,
            name,
            description,
            incremental,
            force,
            snapshot,
            properties,
            protect,
        },
    )
}

fn restore_args() -> impl Strategy<Value = RestoreArgs> {
    let fresh = (Just(None), optional(), optional(), optional(), Just(None));
    let existing = (operand().prop_map(Some), Just(None), Just(None), Just(None), Just(None));
    let second = (Just(None), Just(None), Just(None), Just(None), operand().prop_map(Some));
    let size = proptest::option::of(any::<u64>().prop_map(ByteSize));
    // What is restored is one or the other; the second operand is the volume only behind the first.
    let what = (operand(), any::<bool>());
    let target = prop_oneof![fresh.boxed(), existing.boxed(), second.boxed()];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (what, target, size, flags).prop_map(
        |(
            (what, is_scratch),
            (to, name, source, volume_type, volume),
            size,
            (force, new_xfs_uuid, skips),
        )| {
            RestoreArgs {
                backup: (!is_scratch || volume.is_some()).then(|| what.clone()),
                from_scratch: (is_scratch && volume.is_none()).then_some(what),
                new_xfs_uuid,
                skip_damaged: skips && (!is_scratch || volume.is_some()),
                volume,
                to,
                name,
                source,
                volume_type,
                size,
                force,
            }
        },
    )
}

fn verify_args() -> impl Strategy<Value = VerifyArgs> {
    let backups = proptest::collection::vec(operand(), 1..4);
    let age = (1..1_000_000_u64).prop_map(|seconds| format!("{seconds}s").parse().unwrap());
    let rate = proptest::option::of(any::<u64>().prop_map(ByteRate::per_second));
    (backups, optional(), any::<bool>(), proptest::option::of(age), any::<bool>(), rate).prop_map(
        |(backups, volume, all, older_than, against_source, rate)| VerifyArgs {
            backups,
            all: all && volume.is_none(),
            volume,
            older_than,
            against_source,
            rate,
        },
    )
}

fn set_args() -> impl Strategy<Value = SetArgs> {
    let key = operand().prop_filter("keys", |key| !key.contains('='));
    let properties = proptest::collection::vec((key, word()), 0..3);
    let texts = (proptest::option::of(word()), proptest::option::of(word()));
    let removed = proptest::collection::vec(operand(), 0..3);
    (operand(), texts, any::<bool>(), properties, removed, 0..3).prop_map(
        |(backup, (name, description), no_property, properties, removed_properties, protect)| SetArgs {
            backup,
            name,
            description,
            no_property,
            properties,
            removed_properties,
            protect: protect == 1,
            no_protect: protect == 2,
        },
    )
}

fn delete_args() -> impl Strategy<Value = DeleteArgs> {
    let backups = proptest::collection::vec(operand(), 1..4);
    (backups, any::<bool>()).prop_map(|(backups, force)| DeleteArgs { backups, force })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_command_survives_being_written_as_a_line(
        commands in proptest::collection::vec(prop_oneof![
            backup_args().prop_map(Command::Backup).boxed(),
            restore_args().prop_map(Command::Restore).boxed(),
            operand().prop_map(|job| Command::Cancel(CancelArgs { job })).boxed(),
            delete_args().prop_map(Command::Delete).boxed(),
            verify_args().prop_map(Command::Verify).boxed(),
            set_args().prop_map(Command::Set).boxed(),
            operand().prop_map(|backup| Command::Flatten(FlattenArgs { backup })).boxed(),
            (operand(), optional(), any::<bool>())
                .prop_map(|(backup, name, keep)| Command::Scratch(ScratchArgs { backup, name, keep }))
                .boxed(),
            (operand(), any::<Option<u128>>(), any::<Option<u32>>(), optional(), any::<bool>())
                .prop_map(|(target, uuid, partition, lv, dry_run)| {
                    let uuid = uuid.map(uuid::Uuid::from_u128);
                    Command::XfsUuid(XfsUuidArgs { target, uuid, partition, lv, dry_run })
                })
                .boxed(),
            operand().prop_map(|backup| {
                let state = Some(NewState::Error);
                Command::ResetState(ResetStateArgs { backup, new_state: None, state })
            }).boxed(),
        ], 1..4)
    ) {
        for command in commands {
            let line = command.to_line().unwrap();
            prop_assert_eq!(parse_lines(command.file(), line.as_bytes()), Ok(vec![command]), "{}", line);
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic_or_write_to_a_terminal(
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\x1b'), Just(b'\'')], 0..100)
    ) {
        for file in ControlFile::ALL {
            if let Err(refusal) = parse_lines(file, &bytes) {
                prop_assert!(!refusal.sentence.contains(char::is_control), "{:?}", refusal);
            }
        }
    }
}
