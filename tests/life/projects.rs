//! 8: projects and permissions.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use crate::support::bytes::pattern;
use crate::world::{MIB, World};

const ALICE: u32 = 71_001;
const BOB: u32 = 71_002;

/// Two tenants over one daemon, each with a directory of his own.
struct Tenants {
    world: World,
    _others: tempfile::TempDir,
}

fn tenants() -> Tenants {
    let others = tempfile::tempdir().unwrap();
    let sections = format!(
        "[mount]\nallow_other = true\n[source.bobs]\ntype = \"dir\"\npath = \"{}\"\n\
         [project.alice]\nsources = [\"local\"]\nuid = {ALICE}\ngid = {ALICE}\n\
         [project.bob]\nsources = [\"bobs\"]\nuid = {BOB}\ngid = {BOB}\n",
        others.path().display()
    );
    let world = World::files(&sections);
    fs::write(others.path().join("bobs-volume"), pattern(9, MIB)).unwrap();
    fs::set_permissions(world.daemon.folder(), Permissions::from_mode(0o755)).unwrap();
    Tenants { world, _others: others }
}

impl Tenants {
    /// Runs a shell line as another user; the control files' group lets him in.
    fn run_as(&self, uid: u32, line: &str) -> Output {
        let uid = uid.to_string();
        Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &uid, "--groups", "0", "bash", "-c", line])
            .current_dir(self.world.daemon.mount())
            .output()
            .unwrap()
    }

    /// Writes a command and returns the answer.
    fn say_as(&self, uid: u32, file: &str, line: &str) -> String {
        let script = format!("exec 3<>control/{file}; printf '%s\\n' {line:?} >&3; cat <&3");
        String::from_utf8(self.run_as(uid, &script).stdout).unwrap()
    }
}

/// A command is authorised by the uid of the process that writes it. A tenant commands what belongs to the projects of
/// his uid; another's backup is `NotAuthorized` by its id and not found by its name, and another's source is not his to
/// back up or to restore to. Root, and the user that the daemon runs as, may do everything.
#[test]
fn a_tenant_commands_what_is_his() {
    let tenants = tenants();
    let world = &tenants.world;
    world.fill("v", &pattern(1, MIB));
    let volume = world.volume("v");
    let answer = tenants.say_as(ALICE, "backup", &format!("{volume} --name alices"));
    let id = answer
        .split_whitespace()
        .find_map(|pair| pair.strip_prefix("backup="))
        .unwrap_or_else(|| panic!("{answer}"));
    let job = answer.split_whitespace().find_map(|pair| pair.strip_prefix("job=")).unwrap();
    world.daemon.done(job);
    assert_eq!(world.daemon.info(id)["project"], "alice");

    for (file, line, name) in [
        ("delete", id.to_owned(), "NotAuthorized"),
        ("restore", id.to_owned(), "NotAuthorized"),
        ("set", format!("{id} --name mine"), "NotAuthorized"),
        ("reset-state", format!("{id} error"), "NotAuthorized"),
        ("flatten", id.to_owned(), "NotAuthorized"),
        ("cancel", job.to_owned(), "NotAuthorized"),
        ("backup", volume.clone(), "NotAuthorized"),
        ("delete", "alices".to_owned(), "BackupNotFound"),
        ("delete", id[..8].to_owned(), "BackupNotFound"),
        ("restore", format!("{volume}@latest"), "BackupNotFound"),
        ("backup", world.name("v"), "VolumeNotFound"),
    ] {
        let answer = tenants.say_as(BOB, file, &line);
        assert!(answer.starts_with(&format!("error: {name}: ")), "{file} {line}: {answer}");
        let hidden = name != "VolumeNotFound" && !line.contains("alices") && !line.contains(&volume);
        assert!(!hidden || !answer.contains("alices") && !answer.contains(&world.name("v")), "{answer}");
    }
    let answer = tenants.say_as(BOB, "backup", "bobs-volume --name bobs");
    let job = answer
        .split_whitespace()
        .find_map(|pair| pair.strip_prefix("job="))
        .unwrap_or_else(|| panic!("{answer}"));
    world.daemon.done(job);
    let answer = tenants.say_as(BOB, "restore", "bobs --source local");
    assert!(answer.starts_with("error: NotAuthorized: "), "{answer}");
    let answer = tenants.say_as(BOB, "restore", &format!("bobs --to {volume} --force"));
    assert!(answer.starts_with("error: NotAuthorized: "), "{answer}");
    assert_eq!(world.daemon.info(id)["status"], "available");
    assert_eq!(fs::read(world.daemon.image(id)).unwrap(), pattern(1, MIB));
}

/// One project sees neither names nor sizes of another's: its folders cannot be listed or entered, its images not
/// read. The kernel enforces that, from owners and modes.
#[test]
fn a_tenant_sees_what_is_his() {
    let tenants = tenants();
    let world = &tenants.world;
    world.fill("v", &pattern(1, MIB));
    let id = world.backup("v", "--name alices");
    let own = tenants
        .run_as(ALICE, &format!("cmp backups/{id}/image volumes/local/*/alices/image && ls volumes/local"));
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(String::from_utf8(own.stdout).unwrap().trim(), world.name("v"));
    for line in [
        format!("ls backups/{id}"),
        format!("stat backups/{id}/image"),
        format!("cat backups/{id}/info.json"),
        format!("dd if=backups/{id}/image count=1"),
        "ls volumes/local".to_owned(),
        format!("ls volumes/local/{}", world.name("v")),
        format!("cat volumes/local/{}/alices/image", world.name("v")),
        "cat jobs/1".to_owned(),
    ] {
        let output = tenants.run_as(BOB, &line);
        assert!(!output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stdout));
        assert!(output.stdout.is_empty(), "{line}");
    }
    let seen = tenants.run_as(BOB, "find . -print; ls -R .");
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(!seen.contains(&world.name("v")) && !seen.contains("alices"), "{seen}");
    assert!(!seen.contains(&id), "{seen}");
}

/// In a source that two projects share, a volume belongs to those that have backups of it: another project's commands do
/// not find it.
#[test]
fn in_a_shared_source_a_volume_is_whose_its_backups_are() {
    let sections = format!(
        "[mount]\nallow_other = true\n\
         [project.alice]\nsources = [\"local\"]\nuid = {ALICE}\ngid = {ALICE}\n\
         [project.bob]\nsources = [\"local\"]\nuid = {BOB}\ngid = {BOB}\n"
    );
    let world = World::files(&sections);
    fs::set_permissions(world.daemon.folder(), Permissions::from_mode(0o755)).unwrap();
    let tenants = Tenants { world, _others: tempfile::tempdir().unwrap() };
    let world = &tenants.world;
    for name in ["alices", "bobs"] {
        world.fill(name, &pattern(1, MIB));
    }
    for (uid, name) in [(ALICE, "alices"), (BOB, "bobs")] {
        let answer = tenants.say_as(uid, "backup", &format!("{} --name of-{name}", world.volume(name)));
        let job = answer.split_whitespace().find_map(|pair| pair.strip_prefix("job="));
        world.daemon.done(job.unwrap_or_else(|| panic!("{answer}")));
    }
    let alices = world.volume("alices");
    for (file, line, name) in [
        ("backup", alices.clone(), "VolumeNotFound"),
        ("backup", world.name("alices"), "VolumeNotFound"),
        ("restore", format!("of-bobs --to {alices} --force"), "VolumeExists"),
    ] {
        let answer = tenants.say_as(BOB, file, &line);
        assert!(answer.starts_with(&format!("error: {name}: ")), "{file} {line}: {answer}");
    }
    assert!(world.bytes("alices").unwrap() == pattern(1, MIB));
}
