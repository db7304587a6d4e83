//! A tenant sees what is his, and nothing of what is another's.

use std::process::{Command, Output};
use std::sync::Arc;

use amberfs::jobs::{JobSubject, Slot};

use super::Mounted;
use super::support::bytes::pattern;
use super::support::hand_made::{HandMade, Recipe};
use super::support::vfs_tree::{self, Echo, NamedVolumes, TENANT, project};

fn as_user(mounted: &Mounted, user: u32, groups: &str, script: &str) -> Output {
    user_command(mounted, user, groups, script).output().unwrap()
}

fn user_command(mounted: &Mounted, user: u32, groups: &str, script: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), "--regid=65534".to_owned(), format!("--groups={groups}")]);
    command.args(["bash", "-c", script]).current_dir(&mounted.root);
    command
}

#[test]
fn a_tenant_reads_his_own_and_nobody_reads_anothers() {
    let hand_made = HandMade::new();
    let recipe = Recipe { project: "tenant", source: "rented", ..Recipe::named("first") };
    let id = hand_made.full(&recipe, &pattern(1, 1000));
    let sources: Vec<Arc<dyn amberfs::source::Source>> = vec![NamedVolumes::new("rented", ["vol"])];
    let mounted = Mounted::with_sources(hand_made, sources);
    let allowed = [
        format!("ls backups/{id}"),
        format!("cat backups/{id}/image"),
        format!("cat backups/{id}/info.json"),
        "ls volumes/rented/vol".to_owned(),
        "cat volumes/rented/vol/latest/record".to_owned(),
    ];
    for script in &allowed {
        // By his uid, and by his group.
        for (user, groups) in [(TENANT, "65534"), (65534, &*TENANT.to_string())] {
            let output = as_user(&mounted, user, groups, script);
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let output = as_user(&mounted, 65534, "65534", script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("Permission denied"), "{script}: {errors}");
    }
    for script in ["cat status.json", "echo x > control/backup", "cat control/backup"] {
        assert!(!as_user(&mounted, TENANT, "65534", script).status.success(), "{script}");
    }
    for script in ["cat README", "ls . backups volumes control jobs quotas"] {
        assert!(as_user(&mounted, 65534, "65534", script).status.success(), "{script}");
    }
    let output = as_user(&mounted, TENANT, "65534", &format!("echo x > backups/{id}/image"));
    assert!(!output.status.success(), "the owner writes to an image");
}

/// Two projects that share a source, each with a backup of a volume of its own and one of a volume of both.
fn shared() -> (Mounted, Vec<String>, Vec<String>) {
    let hand_made = HandMade::new();
    let make = |project, volume: &str, name: &str| {
        let recipe = Recipe { project, source: "shared", volume: volume.to_owned(), ..Recipe::named(name) };
        hand_made.full(&recipe, &pattern(1, 1000)).to_string()
    };
    let of_a = vec![make("a", "vol-a", "secret-a"), make("a", "both", "part-a")];
    let of_b = vec![make("b", "vol-b", "secret-b"), make("b", "both", "part-b")];
    let source = NamedVolumes::new("shared", ["vol-a", "vol-b", "both", "fresh"]);
    let runner = Arc::new(Echo::default());
    let mut parts = vfs_tree::parts(&hand_made, vec![source], Arc::clone(&runner));
    parts.projects = vec![project("a", "shared", A), project("b", "shared", B)];
    parts.control_group = OPERATORS;
    for project in ["a", "b"] {
        let subject = JobSubject { backup: None, volume: None, project: project.to_owned() };
        let job = parts.jobs.submit("backup", subject, Slot::Free, |_| Ok(())).unwrap();
        parts.jobs.wait(job).unwrap();
    }
    (Mounted::with_parts(hand_made, runner, parts), of_a, of_b)
}

const A: u32 = 4001;
const B: u32 = 4002;
const OPERATORS: u32 = 4003;

#[test]
fn neither_names_nor_attributes_of_another_project_are_told_though_the_kernel_has_them() {
    let (mounted, of_a, of_b) = shared();
    let everything = "find . -printf '%p uid=%U\\n'; cat jobs/* quotas/*; ls -LR volumes; \
                      stat -c '%n uid=%u' backups/* volumes/shared/*/*";
    let anothers = |id: &str, (volume, name): (&str, &str), job: &str, project: &str| {
        [
            format!("stat backups/{id}"),
            format!("ls backups/{id}"),
            format!("stat backups/{id}/image"),
            format!("cat backups/{id}/info.json"),
            format!("dd if=backups/{id}/image of=/dev/null"),
            format!("cd backups/{id}"),
            format!("stat volumes/shared/{volume}"),
            format!("stat volumes/shared/{volume}/{name}"),
            // By its relative path only: the folders above the mount may be closed to the user.
            format!("stat -L volumes/shared/{volume}/latest"),
            format!("cat volumes/shared/{volume}/latest/image"),
            format!("stat jobs/{job}"),
            format!("stat quotas/{project}"),
        ]
    };
    let about_a = anothers(&of_a[0], ("vol-a", "secret-a"), "1", "a");
    let about_b = anothers(&of_b[0], ("vol-b", "secret-b"), "2", "b");
    // By uid, and by group alone.
    for (user, groups, ids, own, other, other_words) in [
        (A, "65534", &of_a, &about_a, &about_b, ["vol-b", "secret-b", "part-b", "\"b\"", "uid=4002"]),
        (B, "65534", &of_b, &about_b, &about_a, ["vol-a", "secret-a", "part-a", "\"a\"", "uid=4001"]),
        (65534, "4001", &of_a, &about_a, &about_b, ["vol-b", "secret-b", "part-b", "\"b\"", "uid=4002"]),
    ] {
        for script in own {
            // The kernel has just heard of it from its owner, and from root.
            assert!(as_user(&mounted, 0, "0", script).status.success(), "root: {script}");
            let output = as_user(&mounted, user, groups, script);
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        }
        for script in other {
            assert!(as_user(&mounted, 0, "0", script).status.success(), "root: {script}");
            let output = as_user(&mounted, user, groups, script);
            assert!(!output.status.success(), "{user} does {script}");
            assert!(output.stdout.is_empty(), "{script} tells {user} something");
        }
        mounted.sh(everything);
        let output = as_user(&mounted, user, groups, everything);
        let seen = String::from_utf8_lossy(&output.stdout);
        assert!(ids.iter().all(|id| seen.contains(id.as_str())), "{seen}");
        let other_ids = if ids == &of_a { &of_b } else { &of_a };
        for word in other_ids.iter().map(String::as_str).chain(other_words) {
            assert!(!seen.contains(word), "{user} sees {word}: {seen}");
        }
    }
    let seen = as_user(&mounted, 65534, "65534", everything);
    let seen = String::from_utf8_lossy(&seen.stdout);
    for word in of_a.iter().chain(&of_b).map(String::as_str).chain(["shared", "secret", "uid=400"]) {
        assert!(!seen.contains(word), "a stranger sees {word}: {seen}");
    }
}

#[test]
fn users_who_list_and_look_up_at_once_do_not_get_each_others_answers() {
    let (mounted, of_a, of_b) = shared();
    // The same two paths lead everybody somewhere else.
    let look =
        "for n in $(seq 200); do ls backups; readlink volumes/shared/both/latest; done | sort | uniq -c";
    std::thread::scope(|scope| {
        let looking: Vec<_> = [(A, &of_a, &of_b), (B, &of_b, &of_a), (A, &of_a, &of_b)]
            .map(|(user, own, other)| (own, other, user_command(&mounted, user, "65534", look)))
            .into_iter()
            .map(|(own, other, mut command)| scope.spawn(move || (own, other, command.output().unwrap())))
            .collect();
        for looking in looking {
            let (own, other, output) = looking.join().unwrap();
            let seen = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(own.iter().all(|id| seen.contains(&format!("200 {id}"))), "{seen}");
            assert!(seen.contains(&format!("200 ../../../backups/{}", own[1])), "{seen}");
            assert!(!other.iter().any(|id| seen.contains(id.as_str())), "{seen}");
        }
    });
}

#[test]
fn who_is_in_the_control_group_writes_commands_and_nobody_else_does() {
    let (mounted, ..) = shared();
    assert_eq!(mounted.sh("stat -c '%a %u %g' control/backup"), format!("660 0 {OPERATORS}\n"));
    let say = "echo hello > control/backup && cat control/backup";
    let output = as_user(&mounted, A, &OPERATORS.to_string(), say);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ok backup='hello'\n");
    assert_eq!(mounted.runner.calls.lock().unwrap()[0].1, A, "the command is his who wrote it");
    assert!(!as_user(&mounted, A, "65534", say).status.success());
    // An answer is for who gave the command.
    let output = as_user(&mounted, B, &OPERATORS.to_string(), "cat control/backup");
    assert!(output.status.success() && output.stdout.is_empty());
}
