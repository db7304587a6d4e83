//! LVM's text format: `key = value` and `key { ... }`, with numbers, strings, lists and comments.

use std::collections::BTreeMap;

/// Groups have three levels of sections.
const DEPTH_MAX: u32 = 8;

/// Keys and values in all, each section counted as several: four thousand logical volumes have as many. This bounds the
/// memory of a text that consists of nothing else to some twenty megabytes.
const ITEMS_MAX: u32 = 200_000;

/// LVM's own words are shorter.
const WORD_CHARS_MAX: usize = 60;

/// A section with one key takes as much memory as this many numbers in a list.
const ITEMS_OF_SECTION: u32 = 8;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Text(String),
    List(Vec<Value>),
    Section(Section),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Section(BTreeMap<String, Value>);

impl Section {
    pub(super) fn number(&self, key: &str) -> Option<u64> {
        match self.0.get(key) {
            Some(Value::Number(number)) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, key: &str) -> &[Value] {
        match self.0.get(key) {
            Some(Value::List(values)) => values,
            _ => &[],
        }
    }

    pub(super) fn section(&self, key: &str) -> Option<&Section> {
        match self.0.get(key) {
            Some(Value::Section(section)) => Some(section),
            _ => None,
        }
    }

    pub(super) fn sections(&self) -> impl Iterator<Item = (&str, &Section)> {
        self.0.iter().filter_map(|(key, value)| match value {
            Value::Section(section) => Some((key.as_str(), section)),
            _ => None,
        })
    }
}

pub(super) fn parse(text: &str) -> Result<Section, String> {
    let mut parser = Parser { rest: text, items: 0 };
    parser.section(0)
}

/// As much of a word of the text as belongs in a sentence: it may be as long as the text.
pub(super) fn start_of(word: &str) -> &str {
    let end = word.char_indices().nth(WORD_CHARS_MAX).map_or(word.len(), |(end, _)| end);
    word.get(..end).unwrap_or_default()
}

struct Parser<'a> {
    rest: &'a str,
    items: u32,
}

impl<'a> Parser<'a> {
    /// Reads up to the brace that ends a section, or, at depth 0, to the end.
    fn section(&mut self, depth: u32) -> Result<Section, String> {
        if depth > DEPTH_MAX {
            return Err("its sections are nested too deep".to_owned());
        }
        self.count(ITEMS_OF_SECTION)?;
        let mut section = Section::default();
        loop {
            self.skip_space();
            if self.rest.is_empty() && depth == 0 || depth > 0 && self.take("}") {
                return Ok(section);
            }
            let key = self.key()?;
            self.skip_space();
            let value = if self.take("{") {
                Value::Section(self.section(depth + 1)?)
            } else if self.take("=") {
                self.value()?
            } else {
                return Err(format!("behind {:?} there is neither '=' nor '{{'", start_of(key)));
            };
            section.0.insert(key.to_owned(), value);
        }
    }

    fn value(&mut self) -> Result<Value, String> {
        self.skip_space();
        if !self.take("[") {
            return self.single();
        }
        let mut values = Vec::new();
        loop {
            self.skip_space();
            if self.take("]") {
                return Ok(Value::List(values));
            }
            values.push(self.single()?);
            self.skip_space();
            self.take(",");
        }
    }

    fn single(&mut self) -> Result<Value, String> {
        if self.take("\"") {
            return self.quoted();
        }
        let word = self.word(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))?;
        // A fraction is in no field that is used here.
        Ok(word.parse().map_or_else(|_| Value::Text(word.to_owned()), Value::Number))
    }

    fn quoted(&mut self) -> Result<Value, String> {
        self.count(1)?;
        let (mut text, mut is_escaped) = (String::new(), false);
        for (position, c) in self.rest.char_indices() {
            match c {
                '\\' if !is_escaped => is_escaped = true,
                '"' if !is_escaped => {
                    self.rest = self.rest.get(position + 1..).unwrap_or_default();
                    return Ok(Value::Text(text));
                }
                c => {
                    text.push(c);
                    is_escaped = false;
                }
            }
        }
        Err("a string does not end".to_owned())
    }

    fn key(&mut self) -> Result<&'a str, String> {
        self.word(|c| c.is_ascii_alphanumeric() || "_-+.@#".contains(c))
    }

    fn word(&mut self, belongs: impl Fn(char) -> bool) -> Result<&'a str, String> {
        self.count(1)?;
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or(("", self.rest));
        if word.is_empty() {
            return Err(match self.rest.chars().next() {
                Some(c) => format!("{c:?} is in a wrong place"),
                None => "it ends too early".to_owned(),
            });
        }
        self.rest = rest;
        Ok(word)
    }

    fn count(&mut self, items: u32) -> Result<(), String> {
        self.items += items;
        if self.items > ITEMS_MAX {
            return Err("it has too many items".to_owned());
        }
        Ok(())
    }

    fn take(&mut self, wanted: &str) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn skip_space(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_lvm_is_read() {
        let text = "# comment\nvg {\n id = \"a\\\"b\"\n status = [\"READ\", \"WRITE\"] n=-3 empty = []\n in { x = 7 # y\n } }";
        let sections = parse(text).unwrap();
        let group = sections.section("vg").unwrap();
        assert_eq!(group.text("id"), Some("a\"b"));
        assert_eq!(group.list("status").len(), 2);
        assert_eq!((group.number("n"), group.list("empty").len()), (None, 0));
        assert_eq!(group.section("in").unwrap().number("x"), Some(7));
    }

    #[test]
    fn nonsense_is_refused_and_nothing_is_nested_without_end() {
        for text in ["a", "a {", "a = ", "a = \"x", "a = [1, 2", "}", "a = {", "= 1", "a = [[1]]"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse(&"a {".repeat(100_000)).unwrap_err().contains("nested"));
        assert!(parse(&"a".repeat(1 << 20)).unwrap_err().len() < 200, "it goes to the log");
        assert!(parse(&format!("a = [{}]", "1,".repeat(500_000))).unwrap_err().contains("too many"));
    }
}
