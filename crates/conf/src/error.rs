//! What can be wrong with a configuration. Each text names file, section, option and value, and says what to
//! write instead; values of secret options are never shown.

use std::{fmt, io, path::PathBuf};

use kuryr_types::{Blame, Retry};

/// What is wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder that was named could not be read.
    #[error("cannot read {}: check that it exists and that this user may read it", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line that is neither section, assignment, comment nor continuation.
    #[error("{file}:{line}: {problem}")]
    Syntax {
        /// The file.
        file: String,
        /// Line, from one.
        line: usize,
        /// What is wrong with it.
        problem: SyntaxProblem,
    },
    /// A value refers to an option that does not exist.
    #[error(
        "{place}: `${name}` names no option: correct the name, or write `$$` where a dollar sign is meant"
    )]
    NameUnknown {
        /// The value with the reference.
        place: Box<Place>,
        /// The reference.
        name: String,
    },
    /// Values refer to each other in a circle.
    #[error("{place}: `${name}` leads back to this option: write the value itself")]
    NameCircle {
        /// The value with the reference.
        place: Box<Place>,
        /// The reference.
        name: String,
    },
    /// A value that its option cannot have.
    #[error("{place} = {value}: {problem}: {fix}")]
    Value {
        /// The option.
        place: Box<Place>,
        /// What was written, or `(not shown)`.
        value: String,
        /// Why it cannot be.
        problem: String,
        /// What to write.
        fix: String,
    },
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SyntaxProblem {
    /// `[section` without its end, or with something behind it.
    #[error("a section must end with `]` and nothing behind it: put a comment on a line of its own")]
    SectionUnended,
    /// `[]`.
    #[error("a section needs a name between `[` and `]`")]
    SectionUnnamed,
    /// An assignment before the first section.
    #[error("an option stands before the first section: write `[DEFAULT]` above it")]
    SectionMissing,
    /// Neither `=` nor `:`.
    #[error("neither `=` nor `:` found: write `option = value`")]
    Assignment,
    /// `= value`.
    #[error("the name of the option is missing before `=` or `:`")]
    OptionUnnamed,
    /// A line that begins with a blank after an empty line, a comment or a section.
    #[error(
        "the line begins with a blank, which continues a value, but there is none above it: remove the blank \
         or the empty line or comment above"
    )]
    Continuation,
}

/// Where an option was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// File and line, or the environment variable; `None` where only the default applies.
    pub origin: Option<String>,
    /// Section.
    pub section: String,
    /// Option.
    pub option: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(origin) = &self.origin {
            write!(f, "{origin}: ")?;
        }
        write!(f, "[{}] {}", self.section, self.option)
    }
}

impl Error {
    /// Never: a file is read once, at start.
    #[must_use]
    pub const fn retry(&self) -> Retry {
        Retry::Never
    }

    /// Whoever wrote the configuration of this program.
    #[must_use]
    pub const fn blame(&self) -> Blame {
        Blame::Us
    }
}
