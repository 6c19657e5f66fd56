//! The parts that are called pure know neither the system nor the clock.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails panics")]

use std::fs;
use std::path::Path;

/// What a pure part may not mention.
const IMPURE: [&str; 8] =
    ["::sys", "rustix", "libc", "socket2", "std::net", "std::os", "std::time", "std::thread"];

#[test]
fn pure_parts_are_pure() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut pure = 0;
    for folder in ["transport", "engine", "event_loop", "protocol", "tls"] {
        for entry in fs::read_dir(source.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            if !text.lines().next().is_some_and(|title| title.ends_with("(pure).")) {
                continue;
            }
            pure += 1;
            // Their tests may do more, such as let allocations fail.
            let text = text.split("#[cfg(test)]").next().unwrap_or_default();
            for word in IMPURE {
                assert!(!text.contains(word), "{} mentions {word}", path.display());
            }
        }
    }
    assert_eq!(
        pure, 8,
        "flow control, write buffer, datagram queue, gather, states (2), timers, registry"
    );
}
