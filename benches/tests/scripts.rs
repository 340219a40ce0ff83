//! What compare.sh, many.sh and recovery.sh refuse before they start anything.

use std::path::Path;
use std::process::Command;

/// Runs a script that must end at once with a usage error; what it says.
fn refusal(script: &str, arguments: &[&str]) -> String {
    let output = Command::new("bash")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
        .args(arguments)
        .env("MQTTD", "true")
        .env("MQTT_LOAD", env!("CARGO_BIN_EXE_mqtt-load"))
        .env("MQTT_FLOOR", env!("CARGO_BIN_EXE_mqtt-floor"))
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{script} {arguments:?}: {said}");
    said
}

#[test]
fn what_there_is_not_is_refused_with_what_there_is() {
    for (arguments, reason) in [
        (&["--only", "nosuch"][..], "no load 'nosuch'; there are: pairs0 pairs1"),
        (&["--only", "pairs0,nosuch"], "no load 'nosuch'"),
        (&["--without", "nosuch"], "no broker 'nosuch'; there are: mqttd floor mosquitto rumqttd other"),
        (&["--with", "nosuch"], "no broker with a store 'nosuch'; there are: mqttd-store mosquitto-store"),
        (&["--seconds", "0"], "at least 1"),
        (&["--rounds", "abc"], "--rounds takes a number, not 'abc'"),
        (&["--rounds"], "--rounds takes a value"),
        (&["--round", "1"], "no option --round:"),
        (&["nosuch"], "'nosuch' is no NAME=COMMAND"),
    ] {
        let arguments = [&["other=sleep 1"], arguments].concat();
        let said = refusal("compare.sh", &arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    for (arguments, reason) in [
        (&["--connections", "abc"][..], "--connections takes a number, not 'abc'"),
        (&["--connections", "0"], "at least 1"),
        (&["--hold", "-1"], "--hold takes a number"),
        (&["nosuch"], "no 'nosuch'"),
    ] {
        let said = refusal("many.sh", arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    for (arguments, reason) in [
        (&["--sessions", "0"][..], "at least 1"),
        (&["--starts", "x"], "--starts takes a number, not 'x'"),
        (&["--dir", env!("CARGO_MANIFEST_DIR")], "is not empty"),
        (&["nosuch"], "no 'nosuch'"),
    ] {
        let said = refusal("recovery.sh", arguments);
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
}

#[test]
fn reports_of_other_settings_are_not_counted() {
    let folder = std::env::temp_dir().join(format!("compare-{}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("settings"), "--seconds 7 --connections 10000\n").expect("written");
    let raw = folder.to_string_lossy();
    let said = refusal("compare.sh", &["--rounds", "0", "--raw", &raw]);
    std::fs::remove_dir_all(&folder).expect("removed");
    assert!(said.contains("was measured with --seconds 7"), "{said}");
}
