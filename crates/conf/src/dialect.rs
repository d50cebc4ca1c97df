//! One text in oslo.config's dialect, read into assignments.
//!
//! 1. Blanks at the end of a line do not count; an empty line ends a value.
//! 2. A line that begins with a blank or tab continues the value above it, after a line break.
//! 3. `[name]` begins a section. Names of sections are compared in lower case, except `DEFAULT`.
//! 4. A line that begins with `#` or `;` is a comment and ends a value; elsewhere these are ordinary.
//! 5. Every other line is `option = value` or `option: value`, whichever sign comes first.
//! 6. One pair of equal quotes around the value, on its first line, is removed. Nothing is unescaped.
//! 7. An option may stand more than once; the caller lets the last one win.
//!
//! One thing is milder than in the library: a byte order mark at the start is ignored.
//!
//! Sources: oslo.config 10, `iniparser.BaseParser`, `cfg.ConfigParser`.

use crate::error::{Error, SyntaxProblem};

/// Section of options that stand for the whole program.
pub const DEFAULT_SECTION: &str = "DEFAULT";

/// `option = value` as it was written, without substitution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// Line of the option's name, from one.
    pub line: usize,
    /// Section, in lower case unless `DEFAULT`.
    pub section: String,
    /// Option.
    pub option: String,
    /// Value; lines of a continued value are separated by line breaks.
    pub value: String,
}

/// Reads `text`, which is called `file` in errors.
///
/// # Errors
/// [`Error::Syntax`] for the first line that does not belong to the dialect.
pub fn read(file: &str, text: &str) -> Result<Vec<Assignment>, Error> {
    let mut reader = Reader::default();
    for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let line_number = index + 1;
        reader.line(line_number, line.trim_end()).map_err(|problem| Error::Syntax {
            file: file.to_owned(),
            line: line_number,
            problem,
        })?;
    }
    reader.end_value();
    Ok(reader.assignments)
}

/// The name by which a section is found.
#[must_use]
pub fn section_name(written: &str) -> String {
    if written == DEFAULT_SECTION { written.to_owned() } else { written.to_lowercase() }
}

#[derive(Debug, Default)]
struct Reader {
    section: Option<String>,
    /// The assignment that a following line may continue.
    open: Option<Assignment>,
    assignments: Vec<Assignment>,
}

impl Reader {
    fn line(&mut self, number: usize, line: &str) -> Result<(), SyntaxProblem> {
        if line.is_empty() {
            self.end_value();
            return Ok(());
        }
        if line.starts_with([' ', '\t']) {
            return self.continuation(line.trim_start());
        }
        self.end_value();
        if let Some(rest) = line.strip_prefix('[') {
            self.section = Some(section(rest)?);
        } else if !line.starts_with(['#', ';']) {
            self.open = Some(self.assignment(number, line)?);
        }
        Ok(())
    }

    fn end_value(&mut self) {
        self.assignments.extend(self.open.take());
    }

    fn continuation(&mut self, text: &str) -> Result<(), SyntaxProblem> {
        let open = self.open.as_mut().ok_or(SyntaxProblem::Continuation)?;
        open.value.push('\n');
        open.value.push_str(text);
        Ok(())
    }

    fn assignment(&self, line: usize, text: &str) -> Result<Assignment, SyntaxProblem> {
        let (option, value) = text.split_once(['=', ':']).ok_or(SyntaxProblem::Assignment)?;
        let option = option.trim();
        if option.is_empty() {
            return Err(SyntaxProblem::OptionUnnamed);
        }
        let section = self.section.clone().ok_or(SyntaxProblem::SectionMissing)?;
        let value = unquote(value.trim()).to_owned();
        Ok(Assignment { line, section, option: option.to_owned(), value })
    }
}

fn section(rest: &str) -> Result<String, SyntaxProblem> {
    match rest.strip_suffix(']') {
        None => Err(SyntaxProblem::SectionUnended),
        Some("") => Err(SyntaxProblem::SectionUnnamed),
        Some(name) => Ok(section_name(name)),
    }
}

/// Removes one pair of equal quotes. A lone quote is a pair of itself, as in the library.
fn unquote(value: &str) -> &str {
    let quoted = |quote: char| value.starts_with(quote) && value.ends_with(quote);
    match value.len() {
        1 if quoted('"') || quoted('\'') => "",
        length if length > 1 && (quoted('"') || quoted('\'')) => &value[1..length - 1],
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values(text: &str) -> Vec<(String, String, String)> {
        let read = read("a.conf", text).unwrap();
        read.into_iter().map(|a| (a.section, a.option, a.value)).collect()
    }

    // Expectations are those of oslo.config 10 for the same text.
    #[test]
    fn reads_what_the_library_reads() {
        for (text, expect) in [
            ("[a]\nx = 1", vec![("a", "x", "1")]),
            (
                "[A]\nx=1\n[a]\nx=2\n[DEFAULT]\ny=3",
                vec![("a", "x", "1"), ("a", "x", "2"), ("DEFAULT", "y", "3")],
            ),
            ("[a]\nx: b=c\ny=c:d", vec![("a", "x", "b=c"), ("a", "y", "c:d")]),
            ("[a]\nx = 1\n  2\n\t3\n\ny=", vec![("a", "x", "1\n2\n3"), ("a", "y", "")]),
            ("[a]\nx = pa#ss;wo$rd%x\\n ; kept # too", vec![("a", "x", "pa#ss;wo$rd%x\\n ; kept # too")]),
            ("[a]\n# x = 1\n; x = 2\n\nx y = 3  ", vec![("a", "x y", "3")]),
            ("[a]\nx = \"a\"b\"\ny='\nz=\"\"", vec![("a", "x", "a\"b"), ("a", "y", ""), ("a", "z", "")]),
            ("[a]\nw=\"a\n \"", vec![("a", "w", "\"a\n\"")]),
            ("\u{feff}[a]\r\nx=1\r\n", vec![("a", "x", "1")]),
            ("", vec![]),
        ] {
            let expect: Vec<_> =
                expect.into_iter().map(|(s, o, v)| (s.to_owned(), o.to_owned(), v.to_owned())).collect();
            assert_eq!(values(text), expect, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_the_library_refuses() {
        for (text, line, expect) in [
            ("x=1", 1, SyntaxProblem::SectionMissing),
            ("[a\nx=1", 1, SyntaxProblem::SectionUnended),
            ("[a] # c\nx=1", 1, SyntaxProblem::SectionUnended),
            ("[]\nx=1", 1, SyntaxProblem::SectionUnnamed),
            ("[a]\nnovalue", 2, SyntaxProblem::Assignment),
            ("[a]\n=5", 2, SyntaxProblem::OptionUnnamed),
            ("[a]\nx = 1\n\n  3", 4, SyntaxProblem::Continuation),
            ("[a]\nx = 1\n# c\n  2", 4, SyntaxProblem::Continuation),
        ] {
            let error = read("a.conf", text).unwrap_err();
            let Error::Syntax { line: at, problem, .. } = &error else { panic!("{error}") };
            assert_eq!((*at, *problem), (line, expect), "{text:?}");
            assert!(error.to_string().starts_with(&format!("a.conf:{line}: ")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_keeps_plain_values(text in "[\\[\\]a-z=:#; \n\t\"']{0,60}", value in "[a-z0-9#;%\\\\]{1,20}") {
            let _ = read("a.conf", &text);
            prop_assert_eq!(values(&format!("[s]\no = {value}")), [("s".to_owned(), "o".to_owned(), value)]);
        }
    }
}
