//! All configured sources, by name.

use std::sync::Arc;

use super::Source;
use crate::types::SourceName;

#[derive(Clone)]
pub struct Sources {
    sources: Arc<[Arc<dyn Source>]>,
}

impl Sources {
    pub fn new(sources: Vec<Arc<dyn Source>>) -> Self {
        Self { sources: sources.into() }
    }

    pub fn get(&self, name: &SourceName) -> Option<&Arc<dyn Source>> {
        self.iter().find(|source| source.name() == name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Source>> {
        self.sources.iter()
    }
}
