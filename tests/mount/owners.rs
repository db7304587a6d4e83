//! A tenant sees what is his, and nothing of what is another's.

use std::process::{Command, Output};

use super::Mounted;
use super::support::bytes::pattern;
use super::support::hand_made::{HandMade, Recipe};
use super::support::vfs_tree::{NamedVolumes, TENANT};

fn as_user(mounted: &Mounted, user: u32, groups: &str, script: &str) -> Output {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), "--regid=65534".to_owned(), format!("--groups={groups}")]);
    command.args(["bash", "-c", script]).current_dir(&mounted.root).output().unwrap()
}

#[test]
fn a_tenant_reads_his_own_and_nobody_reads_anothers() {
    let hand_made = HandMade::new();
    let recipe = Recipe { project: "tenant", source: "rented", ..Recipe::named("first") };
    let id = hand_made.full(&recipe, &pattern(1, 1000));
    let sources: Vec<std::sync::Arc<dyn amberfs::source::Source>> =
        vec![NamedVolumes::new("rented", ["vol"])];
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
    for script in ["cat README", "ls . backups volumes control jobs"] {
        assert!(as_user(&mounted, 65534, "65534", script).status.success(), "{script}");
    }
    let output = as_user(&mounted, TENANT, "65534", &format!("echo x > backups/{id}/image"));
    assert!(!output.status.success(), "the owner writes to an image");
}
