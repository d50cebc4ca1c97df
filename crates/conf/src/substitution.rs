//! `$name`, `${name}`, `$section.name` and `${section.name}` within values.
//!
//! 1. `$$` and `\$` are a dollar sign.
//! 2. A name begins with a letter or underscore, letters in any case, and may have digits and dots.
//! 3. A name with a dot means an option of that section; without, or if there is none, an option of the
//!    section at hand, then of `[DEFAULT]`.
//! 4. The value put in has had its own names replaced; an option without value is empty text.
//! 5. A dollar sign that begins no name stays.
//!
//! A dot at the end of a name belongs to the text behind it; the library takes it for a part of the name and
//! fails.
//!
//! Sources: oslo.config 10, `ConfigOpts._substitute`, `ConfigOpts.Template`.

/// Why a name could not be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No option has this name.
    Unknown(String),
    /// The option's value leads back to itself.
    Circle(String),
}

/// Replaces all names in `text` by what `lookup` says of them.
///
/// # Errors
/// The first failure of `lookup`.
pub fn substitute(
    text: &str,
    mut lookup: impl FnMut(&str) -> Result<String, Failure>,
) -> Result<String, Failure> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['$', '\\']) {
        let (before, sign) = rest.split_at(at);
        out.push_str(before);
        match Token::of(sign) {
            Token::Dollar { length } => {
                out.push('$');
                rest = &sign[length..];
            }
            Token::Name { name, length } => {
                out.push_str(&lookup(name)?);
                rest = &sign[length..];
            }
            Token::Nothing => {
                out.push_str(&sign[..1]);
                rest = &sign[1..];
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

/// What a dollar sign or backslash begins.
enum Token<'a> {
    Dollar { length: usize },
    Name { name: &'a str, length: usize },
    Nothing,
}

impl<'a> Token<'a> {
    fn of(text: &'a str) -> Self {
        if text.starts_with("$$") || text.starts_with("\\$") {
            return Self::Dollar { length: 2 };
        }
        let Some(after) = text.strip_prefix('$') else { return Self::Nothing };
        if let Some(braced) = after.strip_prefix('{') {
            let name = name(braced);
            let closed = braced[name.len()..].starts_with('}');
            return if closed && !name.is_empty() {
                Self::Name { name, length: name.len() + 3 }
            } else {
                Self::Nothing
            };
        }
        match name(after) {
            "" => Self::Nothing,
            name => Self::Name { name, length: name.len() + 1 },
        }
    }
}

fn name(text: &str) -> &str {
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let end = text.find(|c| !of_name(c)).unwrap_or(text.len());
    if begins { text[..end].trim_end_matches('.') } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_names_and_only_names() {
        let lookup = |name: &str| match name {
            "host" => Ok("h1".to_owned()),
            "s.host" => Ok("h2".to_owned()),
            "X" => Ok("big".to_owned()),
            other => Err(Failure::Unknown(other.to_owned())),
        };
        for (text, expect) in [
            ("plain", Ok("plain")),
            ("http://$host:80/$s.host.", Ok("http://h1:80/h2.")),
            ("${host}name-${s.host}", Ok("h1name-h2")),
            ("pa$$word", Ok("pa$word")),
            ("pa\\$word\\n", Ok("pa$word\\n")),
            ("${host", Ok("${host")),
            ("a$ $1 $-", Ok("a$ $1 $-")),
            ("$X", Ok("big")),
            ("é$host", Ok("éh1")),
            ("pa$word", Err(Failure::Unknown("word".to_owned()))),
        ] {
            let got = substitute(text, lookup);
            assert_eq!(got, expect.map(str::to_owned), "{text}");
        }
    }
}
