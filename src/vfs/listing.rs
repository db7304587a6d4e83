//! Listing an open folder, for who opened it. What it holds is fixed when its beginning is read, so positions mean the same entries
//! however much comes and goes meanwhile; what is gone when its turn comes is left out. Of a hundred thousand backups
//! a snapshot holds the ids only: names and attributes are made as they are read.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::InnerFile;
use super::names;
use super::node::Node;
use super::viewer::Viewer;
use super::{Vfs, VfsError};
use crate::files::FileTree;
use crate::jobs::JobId;
use crate::types::{BackupId, SourceName, VolumeName};

/// What is in a folder, at one moment.
pub(super) enum Children {
    Named(Vec<(Cow<'static, str>, Node)>),
    Volumes(SourceName, Vec<VolumeName>),
    Backups(Vec<BackupId>),
    Jobs(Vec<JobId>),
    /// Of a folder inside a backup, which never changes: read page by page, from whatever position.
    Inner(InnerFile, Arc<FileTree>),
}

impl Children {
    pub(super) fn named(children: impl IntoIterator<Item = (impl Into<Cow<'static, str>>, Node)>) -> Self {
        Self::Named(children.into_iter().map(|(name, node)| (name.into(), node)).collect())
    }

    fn get(&self, position: usize) -> Option<(Cow<'_, str>, Node)> {
        Some(match self {
            Self::Named(children) => {
                let (name, node) = children.get(position)?;
                (Cow::Borrowed(name.as_ref()), node.clone())
            }
            Self::Volumes(source, volumes) => {
                let volume = volumes.get(position)?;
                let name = names::encode(volume.as_str());
                (Cow::Owned(name), Node::VolumeFolder(source.clone(), volume.clone()))
            }
            Self::Backups(ids) => {
                let id = *ids.get(position)?;
                (Cow::Owned(id.to_string()), Node::BackupFolder(id))
            }
            Self::Jobs(ids) => {
                let id = *ids.get(position)?;
                (Cow::Owned(id.to_string()), Node::Job(id))
            }
            Self::Inner(..) => return None,
        })
    }
}

/// An open folder.
pub(super) struct OpenFolder {
    node: Arc<Node>,
    /// Who opened it.
    viewer: Viewer,
    children: Mutex<Option<Arc<Children>>>,
}

/// One entry of a folder. The reader comes back with `next` for those behind it.
pub struct ListedEntry<'a> {
    pub name: &'a OsStr,
    pub node: &'a Node,
    pub next: u64,
}

/// `.` and `..`.
const DOTS: u64 = 2;

impl OpenFolder {
    pub(super) fn new(node: Arc<Node>, viewer: Viewer) -> Self {
        Self { node, viewer, children: Mutex::new(None) }
    }

    fn children(&self, vfs: &Vfs, position: u64) -> Result<Arc<Children>, VfsError> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        // From the beginning means anew: that is what rewinddir promises.
        if let (Some(children), true) = (&*children, position > 0) {
            return Ok(Arc::clone(children));
        }
        Ok(Arc::clone(children.insert(Arc::new(vfs.children_of(&self.viewer, &self.node)?))))
    }

    /// Calls `visit` with the entries from a position on until it says with `false` that it takes no more, that one
    /// included.
    pub(super) fn list(
        &self,
        vfs: &Vfs,
        position: u64,
        mut visit: impl FnMut(ListedEntry<'_>) -> bool,
    ) -> Result<(), VfsError> {
        let children = self.children(vfs, position)?;
        let mut position = position;
        loop {
            let next = position.saturating_add(1);
            let more = if position < DOTS {
                let (name, node) = if position == 0 {
                    (".", self.node.as_ref().clone())
                } else {
                    ("..", self.node.parent())
                };
                visit(ListedEntry { name: OsStr::new(name), node: &node, next })
            } else if let Children::Inner(folder, tree) = &*children {
                return folder.list(tree, position - DOTS, |name, node, next| {
                    visit(ListedEntry {
                        name: OsStr::from_bytes(name),
                        node,
                        next: next.saturating_add(DOTS),
                    })
                });
            } else {
                let child = usize::try_from(position - DOTS).ok().and_then(|number| children.get(number));
                let Some((name, node)) = child else { return Ok(()) };
                visit(ListedEntry { name: OsStr::new(&*name), node: &node, next })
            };
            if !more {
                return Ok(());
            }
            position = next;
        }
    }
}
