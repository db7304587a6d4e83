//! Control files: a command is a write, and its answer a read.

use std::process::Command;
use std::time::{Duration, Instant};

use super::Mounted;
use super::support::hand_made::HandMade;

fn mounted() -> Mounted {
    Mounted::new(HandMade::new())
}

fn calls(mounted: &Mounted) -> Vec<String> {
    let calls = mounted.runner.calls.lock().unwrap();
    calls.iter().map(|(file, _, text)| format!("{file}:{}", String::from_utf8_lossy(text))).collect()
}

#[test]
fn a_shell_runs_a_command_and_reads_its_answer() {
    let mounted = mounted();
    assert_eq!(mounted.sh("cat control/backup"), "", "nothing was asked yet, and cat ends");
    let answer = "ok backup='vol --name x'\n";
    for script in [
        "echo 'vol --name x' > control/backup; cat control/backup",
        "echo 'vol --name x' >> control/backup; cat control/backup",
        "printf %s 'vol --name x' > control/backup; cat control/backup; cat control/backup > /dev/null",
        "echo 'vol --name x' | tee control/backup > /dev/null; cat control/backup",
        "echo 'vol --name x' | dd of=control/backup 2>/dev/null; cat control/backup",
        "echo 'vol --name x' > /tmp/amberfs-command.$$; cp /tmp/amberfs-command.$$ control/backup; \
         rm /tmp/amberfs-command.$$; cat control/backup",
        // The same open file.
        "exec 3<> control/backup; echo 'vol --name x' >&3; cat <&3",
        "exec 3<> control/backup; echo 'other' >&3; cat <&3 >/dev/null; echo 'vol --name x' >&3; cat <&3",
    ] {
        assert_eq!(mounted.sh(script), answer, "{script}");
    }
    assert_eq!(mounted.sh("head -c 7 control/backup; cat control/cancel"), "ok back");
    assert_eq!(
        mounted.sh("printf 'a\\nb\\n' > control/restore; cat control/restore"),
        "ok restore='a'\nok restore='b'\n"
    );
    // bash has written each line by itself; most programs write them at once.
    mounted.sh("printf 'a\nb\n' | cat > control/cancel");
    assert!(calls(&mounted).contains(&"cancel:a\nb\n".to_owned()));
}

#[test]
fn a_refused_command_fails_the_write_and_says_why() {
    let mounted = mounted();
    mounted.fails("echo 'refuse vol' > control/backup", "Device or resource busy");
    assert_eq!(mounted.sh("cat control/backup"), "error: VolumeInUse: it is in use\n");
    let same_file = mounted.sh("exec 3<> control/backup; echo 'refuse vol' >&3 2>/dev/null; cat <&3");
    assert_eq!(same_file, "error: VolumeInUse: it is in use\n");
    assert_eq!(mounted.sh("echo vol > control/backup; cat control/backup"), "ok backup='vol'\n");
}

#[test]
fn a_program_reads_the_answer_in_every_way() {
    let mounted = mounted();
    let printed = mounted.python(
        "import os\n\
         fd = os.open('control/backup', os.O_RDWR)\n\
         os.write(fd, b'one\\n'); print(os.read(fd, 100), os.read(fd, 100))\n\
         os.write(fd, b'two\\n'); os.lseek(fd, 0, 0); print(os.read(fd, 5), os.read(fd, 100), os.read(fd, 100))\n\
         os.write(fd, b'three\\n'); print(os.pread(fd, 100, 0))\n\
         try: os.pwrite(fd, b'refuse\\n refuse x', 0)\n\
         except OSError as e: print('failed')\n\
         with open('control/restore', 'r+') as f:\n\
         \x20f.write('four\\n'); f.flush(); f.seek(0); print(f.read())\n\
         with open('control/restore', 'w') as f: f.write('five\\n')\n\
         print(open('control/restore').read())\n\
         f = open('control/restore', 'w'); f.write('refuse six\\n')\n\
         try: f.close()\n\
         except OSError as e: print(e.strerror)\n",
    );
    let expected = "b\"ok backup='one'\\n\" b''\n\
        b'ok ba' b\"ckup='two'\\n\" b''\n\
        b\"ok backup='three'\\n\"\n\
        ok restore='four'\n\n\
        ok restore='five'\n\n\
        Device or resource busy\n";
    assert_eq!(printed, expected);
}

#[test]
fn a_long_text_in_pieces_is_one_write() {
    let mounted = mounted();
    // cat and stdio write in pieces of their buffers; the end is no line feed.
    let lines = mounted.sh(
        "for i in $(seq 1 3000); do echo volume-$i; done | head -c 25000 > /tmp/amberfs-long.$$; \
         dd if=/tmp/amberfs-long.$$ of=control/backup bs=5000 2>/dev/null; rm /tmp/amberfs-long.$$; \
         wc -l < control/backup",
    );
    let calls = calls(&mounted);
    assert_eq!(calls.len(), 1, "{} calls", calls.len());
    assert_eq!(calls[0].len(), "backup:".len() + 25_000);
    assert_eq!(lines.trim().parse::<usize>().unwrap(), calls[0].lines().count());
    mounted.fails("head -c 3000000 /dev/zero > control/backup", "File too large");
}

#[test]
fn a_refusal_that_comes_at_the_end_fails_the_close() {
    let mounted = mounted();
    let printed = mounted.python(
        "import os\n\
         fd = os.open('control/backup', os.O_WRONLY)\n\
         print(os.write(fd, b'refuse ' + b'x' * 5000))\n\
         try: os.close(fd)\n\
         except OSError as e: print(e.strerror)\n\
         print(open('control/backup').read(), end='')",
    );
    assert_eq!(printed, "5007\nDevice or resource busy\nerror: VolumeInUse: it is in use\n");
}

#[test]
fn a_command_that_takes_long_holds_up_nobody_else() {
    let mounted = mounted();
    let write = |file: &str| {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("echo wait > control/{file}; cat control/{file}")]);
        command.current_dir(&mounted.root).stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let waiting = ["backup", "restore", "cancel"].map(write);
    mounted.runner.wait_for_calls(3);
    let started = Instant::now();
    for _ in 0..20 {
        mounted.sh("cat README status.json; ls backups volumes control; stat control/backup");
    }
    assert!(started.elapsed() < Duration::from_secs(20));
    mounted.runner.let_go();
    for (child, file) in waiting.into_iter().zip(["backup", "restore", "cancel"]) {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("ok {file}='wait'\n"));
    }
}

#[test]
fn an_answer_is_for_who_asked() {
    let mounted = mounted();
    mounted.sh("echo mine > control/backup");
    let other = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all cat control/backup";
    mounted.fails(other, "Permission denied");
    // With root's group a user may write, and reads his own answers.
    let grouped = "setpriv --reuid=65534 --regid=0 --clear-groups bash -c";
    assert_eq!(mounted.sh(&format!("{grouped} 'cat control/backup'")), "");
    let answer = mounted.sh(&format!("{grouped} 'echo his > control/backup; cat control/backup'"));
    assert_eq!(answer, "ok backup='his'\n");
    assert_eq!(mounted.sh("cat control/backup"), "ok backup='mine'\n");
    let uids: Vec<u32> = mounted.runner.calls.lock().unwrap().iter().map(|(_, uid, _)| *uid).collect();
    assert_eq!(uids, [0, 65534]);
}
