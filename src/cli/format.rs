//! `-f` and `-c`: one list or one object as a table, JSON, YAML or plain values, as the OpenStack client writes them.

mod text;

use clap::{Args, ValueEnum};
use serde::ser::{Serialize, Serializer};
use serde_json::Value;

use super::error::CliError;
use super::output;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
    Yaml,
    /// The values alone: one line a row, or one line a field
    Value,
}

#[derive(Debug, Args)]
pub struct OutputArgs {
    /// Output format
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value = "table", help_heading = "Output")]
    pub format: Format,

    /// Show this column only (repeat for several)
    #[arg(short, long = "column", value_name = "COLUMN", help_heading = "Output")]
    pub columns: Vec<String>,
}

/// Rows under headings.
pub struct List {
    pub headings: &'static [&'static str],
    /// How many of the headings are shown when none is asked for.
    pub shown: usize,
    pub rows: Vec<Vec<Value>>,
}

impl OutputArgs {
    /// Prints rows, or of each the columns that were asked for.
    pub fn print_list(&self, list: List) -> Result<(), CliError> {
        let chosen = self.chosen(list.headings, list.shown)?;
        let headings: Vec<&str> = pick(list.headings, &chosen).copied().collect();
        let rows: Vec<Vec<&Value>> = list.rows.iter().map(|row| pick(row, &chosen).collect()).collect();
        let text = match self.format {
            Format::Table if rows.is_empty() => String::new(),
            Format::Table => text::table(&headings, &rows),
            Format::Json => {
                json(&rows.iter().map(|row| Object { names: &headings, values: row }).collect::<Vec<_>>())?
            }
            Format::Yaml => text::yaml_list(&headings, &rows),
            Format::Value => text::value_list(&rows),
        };
        output::print(text.as_bytes())
    }

    /// Prints one object, or the fields of it that were asked for.
    pub fn print_object(&self, fields: &[(String, Value)]) -> Result<(), CliError> {
        let names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        let chosen = self.chosen(&names, names.len())?;
        let names: Vec<&str> = pick(&names, &chosen).copied().collect();
        let values: Vec<&Value> = pick(fields, &chosen).map(|(_, value)| value).collect();
        let text = match self.format {
            Format::Table => text::object_table(&names, &values),
            Format::Json => json(&Object { names: &names, values: &values })?,
            Format::Yaml => text::yaml_object(&names, &values),
            Format::Value => values.iter().map(|value| format!("{}\n", text::bare(value))).collect(),
        };
        output::print(text.as_bytes())
    }

    /// Returns which columns to show, in the order of the headings as the OpenStack client does.
    fn chosen(&self, headings: &[&str], shown: usize) -> Result<Vec<bool>, CliError> {
        if self.columns.is_empty() {
            return Ok((0..headings.len()).map(|number| number < shown).collect());
        }
        let wanted: Vec<String> = self.columns.iter().map(|column| normal(column)).collect();
        let known: Vec<String> = headings.iter().map(|heading| normal(heading)).collect();
        match self.columns.iter().zip(&wanted).find(|(_, wanted)| !known.contains(wanted)) {
            Some((column, _)) => Err(CliError::Usage(format!(
                "there is no column {column:?}: there are {}",
                headings.join(", ")
            ))),
            None => Ok(known.iter().map(|heading| wanted.contains(heading)).collect()),
        }
    }
}

/// `Created At`, `created at` and `created_at` are the same column.
pub fn normal(column: &str) -> String {
    column.to_lowercase().replace(' ', "_")
}

fn pick<'a, T>(all: &'a [T], chosen: &'a [bool]) -> impl Iterator<Item = &'a T> {
    all.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|(item, _)| item)
}

/// A JSON object with its fields in order.
struct Object<'a> {
    names: &'a [&'a str],
    values: &'a [&'a Value],
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.names.iter().zip(self.values))
    }
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    let text = serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))?;
    Ok(text + "\n")
}
