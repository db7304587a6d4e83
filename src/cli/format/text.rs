//! Values as text: cells of tables for people, scalars of YAML, bare words for scripts.

use comfy_table::Table;
use serde_json::Value;

use crate::cli::output::plain;

/// The borders that the OpenStack client draws.
const BORDERS: &str = "||--+-++|    ++++++";

pub fn table(headings: &[&str], rows: &[Vec<&Value>]) -> String {
    let mut table = Table::new();
    table.load_preset(BORDERS).set_header(headings);
    for row in rows {
        table.add_row(row.iter().map(|value| cell(value)));
    }
    table.to_string() + "\n"
}

pub fn object_table(names: &[&str], values: &[&Value]) -> String {
    let mut table = Table::new();
    table.load_preset(BORDERS).set_header(["Field", "Value"]);
    for (name, value) in names.iter().zip(values) {
        table.add_row([plain(name), cell(value)]);
    }
    table.to_string() + "\n"
}

pub fn value_list(rows: &[Vec<&Value>]) -> String {
    let line = |row: &Vec<&Value>| row.iter().map(|value| bare(value)).collect::<Vec<_>>().join(" ") + "\n";
    rows.iter().map(line).collect()
}

pub fn yaml_list(headings: &[&str], rows: &[Vec<&Value>]) -> String {
    if rows.is_empty() {
        return "[]\n".to_owned();
    }
    let mut text = String::new();
    for row in rows {
        for (number, line) in yaml_object(headings, row).lines().enumerate() {
            text.push_str(if number == 0 { "- " } else { "  " });
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

pub fn yaml_object(names: &[&str], values: &[&Value]) -> String {
    let pairs = names.iter().zip(values);
    pairs.map(|(name, value)| format!("{}: {}\n", yaml_key(name), yaml_scalar(value))).collect()
}

fn yaml_key(name: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphabetic() || c == '_';
    if name.starts_with(is_word) && name.chars().all(|c| is_word(c) || c.is_ascii_digit() || c == ' ') {
        name.to_owned()
    } else {
        yaml_scalar(&Value::from(name))
    }
}

/// JSON is YAML, but for the characters that YAML wants escaped and JSON does not.
fn yaml_scalar(value: &Value) -> String {
    let mut text = String::new();
    for c in value.to_string().chars() {
        match c {
            '\u{7f}'..='\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => text.push(c),
        }
    }
    text
}

/// Returns a value for a script: text as it is, what has parts as JSON.
pub fn bare(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// Returns a value for a person; maps and lists as the OpenStack client writes them.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Object(map) => {
            let pairs = map.iter().map(|(key, value)| format!("{key}='{}'", bare(value)));
            pairs.collect::<Vec<_>>().join(", ")
        }
        Value::Array(values) => values.iter().map(bare).collect::<Vec<_>>().join(", "),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => bare(value),
    };
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_cell_is_for_people_and_a_bare_value_for_scripts() {
        let map = json!({"b": "x y", "a": null});
        assert_eq!(
            (cell(&map).as_str(), bare(&map).as_str()),
            ("a='None', b='x y'", r#"{"a":null,"b":"x y"}"#)
        );
        assert_eq!(cell(&json!(["a", 1, true])), "a, 1, True");
        assert_eq!(cell(&json!("\x1b[2J")), "\\u{1b}[2J");
        assert_eq!(bare(&json!("\x1b[2J")), "\x1b[2J");
        assert_eq!((bare(&Value::Null), bare(&json!(false))), ("None".into(), "False".into()));
    }

    #[test]
    fn yaml_escapes_what_yaml_does_not_allow_in_a_quoted_scalar() {
        assert_eq!(
            yaml_scalar(&json!("no: #\n\u{85}\u{feff}\u{fc}\x1b")),
            "\"no: #\\n\\u0085\\ufeff\u{fc}\\u001b\""
        );
        assert_eq!((yaml_key("Created At"), yaml_key("a: b")), ("Created At".into(), "\"a: b\"".into()));
    }
}
