//! How to log, by the options of `[DEFAULT]`.

use kuryr_conf::{Conf, Error, options::default};
use kuryr_telemetry::logging::{LogConfig, LogFormat};

/// Resolves the options; `debug` comes from the command line.
pub(crate) fn log_config(conf: &Conf, debug: bool) -> Result<LogConfig, Error> {
    Ok(LogConfig {
        format: match conf.get(&default::LOG_FORMAT)?.as_str() {
            "json" => LogFormat::Json,
            _ => LogFormat::Text,
        },
        debug: debug || conf.get(&default::DEBUG)?,
        filter: conf.get(&default::LOG_FILTER)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_adds_to_the_file() {
        let plain = LogConfig::default();
        let debug = LogConfig { debug: true, ..plain.clone() };
        for (text, flag, expect) in [
            ("", false, plain.clone()),
            ("", true, debug.clone()),
            ("debug = true", false, debug),
            ("log_format = json", false, LogConfig { format: LogFormat::Json, ..plain.clone() }),
            ("log_filter = warn", false, LogConfig { filter: Some("warn".into()), ..plain }),
        ] {
            let conf = Conf::from_texts(&[("kuryr.conf", &format!("[DEFAULT]\n{text}\n"))]).unwrap();
            assert_eq!(log_config(&conf, flag).unwrap(), expect, "{text} {flag}");
        }
    }
}
