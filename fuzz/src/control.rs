//! Lines that are written to control files: what is understood is the same when it is written and read again.

use amberfs::control::{Command, ControlFile, LINE_BYTES_MAX, LINES_MAX, ResetStateArgs, parse_lines};

/// An answer quotes what it was given, but never much of it.
const SENTENCE_BYTES_MAX: usize = 16 << 10;

pub fn look(data: &[u8]) {
    let Some((number, lines)) = data.split_first() else { return };
    let file = ControlFile::ALL[usize::from(*number) % ControlFile::ALL.len()];
    match parse_lines(file, lines) {
        Ok(commands) => {
            assert!((1..=LINES_MAX).contains(&commands.len()));
            commands.iter().for_each(|command| check(file, command));
        }
        Err(refusal) => {
            let sentence = refusal.sentence;
            assert!(sentence.len() <= SENTENCE_BYTES_MAX, "{} bytes of answer", sentence.len());
            assert!(!sentence.chars().any(char::is_control), "{sentence:?} does something to a terminal");
        }
    }
}

fn check(file: ControlFile, command: &Command) {
    assert_eq!(command.file(), file);
    // Some texts can be said in quotes only, which a client has no need to.
    let Ok(line) = command.to_line() else { return };
    if line.len() > LINE_BYTES_MAX {
        return;
    }
    let again =
        parse_lines(file, line.as_bytes()).unwrap_or_else(|refusal| panic!("{line:?}: {}", refusal.sentence));
    assert_eq!(again, [normal(command.clone())], "{line:?}");
}

/// A state can be given in two ways, and is written in one of them.
fn normal(command: Command) -> Command {
    match command {
        Command::ResetState(args) => {
            let state = args.state.or(args.new_state);
            Command::ResetState(ResetStateArgs { new_state: None, state, ..args })
        }
        other => other,
    }
}
