//! Rust text without its comments and literals.
//!
//! Rules that look for names must not trip over a sentence or a string that mentions one. The scanner knows
//! line and nested block comments, plain, raw and byte strings, characters and lifetimes; it keeps every line
//! break, so that line numbers stay true. It is no parser: macros and attributes are ordinary text.

/// Replaces comments and the inside of literals by blanks.
pub(crate) fn code_only(text: &str) -> String {
    let mut scanner = Scanner { rest: text, out: String::with_capacity(text.len()) };
    while !scanner.rest.is_empty() {
        scanner.step();
    }
    scanner.out
}

/// Cuts off the test module: by convention it is the last thing in a file.
pub(crate) fn without_tests(code: &str) -> &str {
    code.find("#[cfg(test)]\nmod ").map_or(code, |start| &code[..start])
}

/// Finds the lines, from one, on which `name` stands as a whole path or word.
pub(crate) fn lines_naming<'a>(code: &'a str, name: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    code.lines().enumerate().filter_map(move |(index, line)| {
        let whole = line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let after = line[at + name.len()..].chars().next();
            !before.is_some_and(part_of_word) && !after.is_some_and(part_of_word)
        });
        whole.then_some(index + 1)
    })
}

struct Scanner<'a> {
    rest: &'a str,
    out: String,
}

impl Scanner<'_> {
    fn step(&mut self) {
        let rest = self.rest;
        if rest.starts_with("//") {
            self.blank(rest.find('\n').unwrap_or(rest.len()));
        } else if rest.starts_with("/*") {
            self.blank(block_comment(rest));
        } else if let Some(length) = raw_string(rest).filter(|_| !self.inside_word()) {
            self.blank(length);
        } else if rest.starts_with('"') {
            self.blank(quoted(rest, '"'));
        } else if let Some(length) = character(rest) {
            self.blank(length);
        } else {
            self.keep();
        }
    }

    fn inside_word(&self) -> bool {
        self.out.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    fn keep(&mut self) {
        let mut chars = self.rest.chars();
        self.out.extend(chars.next());
        self.rest = chars.as_str();
    }

    fn blank(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.out.extend(gone.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        self.rest = rest;
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0usize);
    while at < text.len() {
        let here = &text[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of a raw string that begins here: `r"..."`, `br#"..."#`.
fn raw_string(text: &str) -> Option<usize> {
    let after_prefix =
        text.strip_prefix("br").or_else(|| text.strip_prefix("cr")).or_else(|| text.strip_prefix('r'))?;
    let hashes = after_prefix.bytes().take_while(|byte| *byte == b'#').count();
    let body = after_prefix[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(text.len() - body.len() + length)
}

/// Length of a literal that begins and ends with `quote` and knows backslashes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Length of a character literal that begins here; nothing for a lifetime.
fn character(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.chars();
    match chars.next()? {
        '\\' => Some(quoted(text, '\'')),
        _ if chars.next() == Some('\'') => Some(quoted(text, '\'')),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_become_blanks_and_lines_stay() {
        for (text, expect) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c\n */ d */ e", "a          \n         e"),
            (r#"f("a\"b", 1)"#, "f(      , 1)"),
            ("r#\"x\"y\"# z", "         z"),
            ("let r = br\"x\\\"; z", "let r =       ; z"),
            ("'\\'' 'a' 'a: loop", "         'a: loop"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("bar\"x\"", "bar   "),
        ] {
            assert_eq!(code_only(text), expect, "{text}");
        }
    }

    #[test]
    fn names_are_found_as_whole_words() {
        for (code, name, expect) in [
            ("use std::env;\nlet environment = 1;", "env", vec![1]),
            ("HashMapper\nstd::collections::HashMap::new()", "HashMap", vec![2]),
            ("x.await\nawaited", "await", vec![1]),
        ] {
            assert_eq!(lines_naming(code, name).collect::<Vec<_>>(), expect, "{code}");
        }
    }

    #[test]
    fn the_test_module_is_cut_off() {
        assert_eq!(without_tests("fn a() {}\n#[cfg(test)]\nmod tests { use x; }"), "fn a() {}\n");
        assert_eq!(without_tests("fn a() {}"), "fn a() {}");
    }
}
