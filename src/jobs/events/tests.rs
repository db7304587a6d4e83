//! Tests of the file of events: what readers see while it grows, is cut, and is damaged.

use std::fs;

use super::*;

fn deleted(backup: &str) -> BackupEvent {
    BackupEvent {
        backup: backup.to_owned(),
        status: "deleted",
        project: "p".into(),
        volume: "rbd/v".into(),
        name: None,
        fail_reason: None,
    }
}

fn tell(log: &EventLog, backup: impl ToString) {
    log.observe(Event::Backup(&deleted(&backup.to_string())));
}

/// Reads from an offset to the end, a little at a time.
fn read_from(reader: &EventReader, mut offset: u64) -> String {
    let (mut text, mut some) = (Vec::new(), [0; 100]);
    loop {
        let length = reader.read(offset, &mut some).unwrap();
        if length == 0 {
            return String::from_utf8(text).unwrap();
        }
        text.extend_from_slice(&some[..length]);
        offset += length as u64;
    }
}

fn backups(text: &str) -> Vec<String> {
    let value = |line| serde_json::from_str::<serde_json::Value>(line).unwrap();
    text.lines().map(|line| value(line)["backup"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_line_has_the_fields_in_their_order_and_the_length_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog::open(folder.path());
    assert_eq!(log.length(), 0);
    tell(&log, "ID");
    let text = read_from(&log.reader(), 0);
    let (time, rest) = text.split_once(r#"","event":"#).unwrap();
    assert!(time.strip_prefix(r#"{"time":""#).unwrap().parse::<Timestamp>().is_ok(), "{text}");
    let expected = concat!(
        r#""backup","backup":"ID","status":"deleted","project":"p","volume":"rbd/v","#,
        r#""name":null,"fail_reason":null}"#,
        "\n"
    );
    assert_eq!(rest, expected);
    assert_eq!(log.length(), text.len() as u64);
    log.observe(Event::Progress(&ProgressEvent {
        job: "12".parse().unwrap(),
        backup: None,
        bytes_done: 1,
        bytes_total: 2,
        bytes_per_second: 3,
    }));
    let progress = read_from(&log.reader(), text.len() as u64);
    let expected =
        r#""event":"progress","job":12,"backup":null,"bytes_done":1,"bytes_total":2,"bytes_per_second":3}"#;
    assert!(progress.trim_end().ends_with(expected), "{progress}");
}

#[test]
fn an_open_reader_sees_later_lines_and_the_next_daemon_goes_on_with_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog::open(folder.path());
    let reader = log.reader();
    tell(&log, 1);
    let first = read_from(&reader, 0);
    tell(&log, 2);
    assert_eq!(backups(&read_from(&reader, first.len() as u64)), ["2"]);
    drop((log, reader));
    // A kill in the middle of a line.
    let mut file = OpenOptions::new().append(true).open(folder.path().join("events")).unwrap();
    std::io::Write::write_all(&mut file, b"{\"time\":\"20").unwrap();
    let log = EventLog::open(folder.path());
    tell(&log, 3);
    assert_eq!(backups(&read_from(&log.reader(), 0)), ["1", "2", "3"]);
}

#[test]
fn the_older_half_goes_and_no_reader_meets_a_part_of_a_line() {
    const LIMIT: u64 = 4000;
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog::with_limit(folder.path(), LIMIT);
    tell(&log, 0);
    let line_length = log.length();
    let (mut follower, mut slow, start) = (log.reader(), log.reader(), log.reader());
    let (mut seen, mut offset) = (Vec::new(), 0);
    for number in 1..100 {
        // As tail -f does: a file that is shorter than before is read from its beginning.
        if log.length() < offset {
            offset = 0;
        }
        let text = read_from(&follower, offset);
        offset += text.len() as u64;
        seen.extend(backups(&text));
        tell(&log, number);
        assert!(log.length() <= LIMIT && log.length() >= line_length);
    }
    // Each line has been seen, in order; after a cut those that were kept are seen again.
    let mut once = seen.clone();
    once.dedup();
    let numbers: Vec<u32> = once.iter().map(|number| number.parse().unwrap()).collect();
    let firsts: Vec<u32> = numbers
        .iter()
        .copied()
        .filter({
            let mut next = 0;
            move |number| (*number == next).then(|| next += 1).is_some()
        })
        .collect();
    assert_eq!(firsts, (0..99).collect::<Vec<_>>());
    // A reader whose bytes are gone meets the end, and from the beginning what there is.
    assert_eq!(read_from(&slow, line_length), "");
    let all = backups(&read_from(&start, 0));
    assert_eq!(all.last().unwrap(), "99");
    assert_eq!(read_from(&slow, 0), read_from(&start, 0));
    // One that is in the middle goes on in the middle, over a cut.
    slow = log.reader();
    follower = log.reader();
    let before = read_from(&follower, 0);
    let mut number = 100;
    let length = log.length();
    while log.length() >= length {
        tell(&log, number);
        number += 1;
    }
    let after = read_from(&slow, before.len() as u64);
    assert_eq!(backups(&after), (100..number).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_log_that_cannot_be_written_stops_nobody_and_goes_on_when_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    fs::create_dir(&path).unwrap();
    let log = EventLog::open(folder.path());
    tell(&log, 1);
    assert_eq!((log.length(), read_from(&log.reader(), 0)), (0, String::new()));
    fs::remove_dir(&path).unwrap();
    tell(&log, 2);
    assert_eq!(backups(&read_from(&log.reader(), 0)), ["2"]);
}
