//! An error with its causes, in one line.

use std::error::Error;

/// Writes an error and its causes, outermost first. Libraries repeat a cause in their own text; once is enough.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use super::*;

    #[derive(Debug)]
    struct Layer(&'static str, Option<Box<Self>>);

    impl fmt::Display for Layer {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Layer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as _)
        }
    }

    #[test]
    fn each_cause_is_told_once() {
        for (layers, expect) in [
            (&["alone"][..], "alone"),
            (&["cannot ask", "no route", "host down"], "cannot ask: no route: host down"),
            (&["cannot ask: no route", "no route", "host down"], "cannot ask: no route: host down"),
        ] {
            let inside = |cause, words: &&'static str| Some(Box::new(Layer(words, cause)));
            let error = layers.iter().rev().fold(None, inside).unwrap();
            assert_eq!(with_causes(&*error), expect);
        }
    }
}
