//! The program as a user meets it: start, exit codes, signals, what it says on stderr.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::process::{DEADLINE, Mqttd, command, wait};

/// A 3.1.1 CONNECT with Clean Session 1, Keep Alive 60 and the ClientID `c`.
const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01c";
/// A 5.0 CONNECT with Clean Start 1, Keep Alive 60, no properties and the ClientID `c`.
const CONNECT_V5: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x01c";

fn connect(mqttd: &Mqttd) -> TcpStream {
    let stream = TcpStream::connect(mqttd.address).expect("it listens");
    stream.set_read_timeout(Some(DEADLINE)).expect("the deadline is not zero");
    stream
}

fn read(stream: &mut TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).expect("the broker answers");
    bytes
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mqttd = Mqttd::start(&[]);
        let mut stream = connect(&mqttd);
        stream.write_all(CONNECT).expect("it reads");
        assert_eq!(read(&mut stream, 4), b"\x20\x02\x00\x00", "CONNACK, accepted");
        mqttd.signal(signal);
        let (code, log) = mqttd.wait();
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(stream.read(&mut [0; 16]).expect("closed in order, not reset"), 0);
    }
}

#[test]
fn clients_of_5_0_are_told_of_the_shutdown() {
    let mqttd = Mqttd::start(&[]);
    let mut stream = connect(&mqttd);
    stream.write_all(CONNECT_V5).expect("it reads");
    let header = read(&mut stream, 2);
    read(&mut stream, header[1].into());
    mqttd.signal(Signal::SIGTERM);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("closed in order, not reset");
    assert_eq!(&rest[..1], b"\xe0", "DISCONNECT");
    assert_eq!(rest[2], 0x8b, "Server shutting down");
    assert_eq!(mqttd.wait().0, Some(0));
}

#[test]
fn a_second_signal_does_not_wait_for_a_client_that_reads_nothing() {
    /// More than the kernel keeps for both ends of a connection.
    const UNREAD: usize = 32;
    let mut mqttd = Mqttd::start(&["--shutdown-timeout-seconds", "600"]);
    let mut stream = connect(&mqttd);
    stream.write_all(CONNECT).expect("it reads");
    stream.write_all(b"\x82\x06\x00\x01\x00\x01x\x00").expect("it reads");
    // A PUBLISH of 1 MiB, at QoS 0, to the topic `x`, which is what it has subscribed to.
    let mut publish = b"\x30\x83\x80\x40\x00\x01x".to_vec();
    publish.resize(publish.len() + 1024 * 1024, 0);
    for _ in 0..UNREAD {
        stream.write_all(&publish).expect("it reads");
    }
    mqttd.signal(Signal::SIGTERM);
    mqttd.says("shutting down");
    mqttd.signal(Signal::SIGTERM);
    assert_eq!(mqttd.wait().0, Some(128 + Signal::SIGTERM as i32));
}

#[test]
fn sighup_ends_nothing() {
    let mqttd = Mqttd::start(&[]);
    mqttd.signal(Signal::SIGHUP);
    let mut stream = connect(&mqttd);
    stream.write_all(CONNECT).expect("it reads");
    assert_eq!(read(&mut stream, 4), b"\x20\x02\x00\x00");
    mqttd.signal(Signal::SIGTERM);
    let (code, log) = mqttd.wait();
    assert_eq!(code, Some(0));
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn a_used_port_is_one_clear_sentence_and_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let output =
        command().args(["--listen", &address, "--cores", "1", "--ephemeral"]).output().expect("it starts");
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("mqttd: ") && said.contains(&address) && said.lines().count() == 1, "{said}");
}

#[test]
fn a_second_mqttd_on_the_port_does_not_steal_its_clients() {
    let first = Mqttd::start(&[]);
    let address = first.address.to_string();
    let output =
        command().args(["--listen", &address, "--cores", "2", "--ephemeral"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_open_listener_without_authentication_is_refused() {
    let output = command().args(["--listen", "0.0.0.0:0"]).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(said.contains("--allow-anonymous") && said.lines().count() == 1, "{said}");
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let output = command().arg("--no-such-flag").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn check_prints_settings_that_check_accepts() {
    let printed = command().args(["check", "--receive-maximum", "9"]).output().expect("it starts");
    assert_eq!(printed.status.code(), Some(0));
    let file = std::env::temp_dir().join(format!("mqttd-check-{}.toml", std::process::id()));
    std::fs::write(&file, &printed.stdout).expect("the temporary folder is writable");
    let again = command().args(["check", "--config"]).arg(&file).output().expect("it starts");
    std::fs::remove_file(&file).expect("it was written");
    assert_eq!(String::from_utf8_lossy(&again.stdout), String::from_utf8_lossy(&printed.stdout));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("receive_maximum = 9\n"));
}

#[test]
fn check_fails_with_file_and_line() {
    let file = std::env::temp_dir().join(format!("mqttd-wrong-{}.toml", std::process::id()));
    std::fs::write(&file, "\n[limits]\nreceive_maximun = 5\n").expect("the temporary folder is writable");
    let output = command().args(["check", "--config"]).arg(&file).output().expect("it starts");
    std::fs::remove_file(&file).expect("it was written");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(".toml:3: unknown setting `receive_maximun`; did you mean `receive_maximum`?"),
        "{said}"
    );
}

/// What `mqttd check` says of a file with `text`, and `flags`; FILE stands for the file. What is refused prints no settings.
fn check(name: &str, text: &str, flags: &[&str]) -> Result<String, String> {
    let file = std::env::temp_dir().join(format!("mqttd-{name}-{}.toml", std::process::id()));
    std::fs::write(&file, text).expect("the temporary folder is writable");
    let output = command().args(["check", "--config"]).arg(&file).args(flags).output().expect("it starts");
    std::fs::remove_file(&file).expect("it was written");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8").replace(&*file.to_string_lossy(), "FILE");
    if output.status.success() {
        return Ok(text(output.stdout));
    }
    assert!(output.stdout.is_empty(), "{}", text(output.stdout));
    Err(text(output.stderr))
}

#[test]
fn what_cannot_work_of_the_store_is_said_with_line_and_flag() {
    for (text, flags, said) in [
        ("segment_bytes = 1000", &[][..], "FILE:2: segment_bytes is 1000: give a multiple of 65536"),
        ("ephemeral = true\nsegment_bytes = 1000", &[], "FILE:3: segment_bytes is 1000: give a multiple"),
        ("log_bytes_max = 0", &[], "FILE:2: log_bytes_max is 0; it must be 524,288 bytes or more"),
        (
            "segment_bytes = \"1G\"",
            &[],
            "FILE:2: segment_bytes is 1073741824 and log_bytes_max is 4294967296 if it is not set: a log takes 8 \
             segments at least; give a log_bytes_max of 8589934592 or more",
        ),
        (
            "log_bytes_max = \"1M\"\nsegment_bytes = \"1M\"",
            &[],
            "FILE:2: log_bytes_max is 1048576 and segment_bytes is 1048576 (FILE:3): a log",
        ),
        (
            "segment_bytes = \"1M\"",
            &["--log-bytes-max=1M"],
            "--log-bytes-max is 1048576 and segment_bytes is 1048576 (FILE:2): a log",
        ),
        ("", &["--segment-bytes=1000"], "--segment-bytes is 1000: give a multiple of 65536"),
    ] {
        let refused = check("store", &format!("[store]\n{text}\n"), flags).expect_err(text);
        assert!(refused.starts_with(&format!("mqttd: {said}")) && refused.lines().count() == 1, "{refused}");
    }
    // A file that cannot work by itself is no fault if the flags make it one that can.
    let large = "[store]\nsegment_bytes = \"1G\"\n";
    assert!(check("mended", large, &["--log-bytes-max=8G"]).is_ok());
}

#[test]
fn a_store_that_is_ephemeral_and_has_a_directory_is_refused_unless_a_flag_decides() {
    let both = "[store]\nephemeral = true\ndata_dir = \"/d\"\n";
    let said = check("both", both, &[]).expect_err("they contradict each other");
    assert!(said.contains("FILE:2: ephemeral is true and data_dir is \"/d\" (FILE:3): "), "{said}");
    let ephemeral = check("one", both, &["--ephemeral"]).expect("the flag decides");
    assert!(ephemeral.contains("ephemeral = true\ndata_dir = \"\"\n"), "{ephemeral}");
    let kept = check("other", both, &["--data-dir=/e"]).expect("the flag decides");
    assert!(kept.contains("ephemeral = false\ndata_dir = \"/e\"\n"), "{kept}");
    let said = check("flags", "", &["--ephemeral", "--data-dir=/e"]).expect_err("they contradict each other");
    assert!(said.contains("cannot be used with"), "{said}");
}

#[test]
fn an_address_that_is_refused_is_said_with_its_line_if_it_is_from_the_file() {
    let said = check("open", "\nlisten = [\"0.0.0.0:1\"]\n", &[]).expect_err("everybody could connect");
    assert!(said.starts_with("mqttd: FILE:2: refusing to listen on 0.0.0.0:1 "), "{said}");
    let said = check("flag", "listen = [\"1883\"]\n", &["--listen=0.0.0.0:1"]).expect_err("as above");
    assert!(said.starts_with("mqttd: refusing to listen on 0.0.0.0:1 "), "{said}");
}

#[test]
fn bytes_and_seconds_are_taken_with_units_by_the_file_and_by_flags() {
    let text = "[limits]\nqueue_bytes_max = \"64MiB\"\nconnect_timeout_seconds = \"5m\"\n[store]\nlog_bytes_max = \"2G\"\n";
    let flags = ["--queue-bytes-max=64MiB", "--connect-timeout-seconds=5m", "--log-bytes-max=2G"];
    let (file, flags) = (check("units", text, &[]), check("flags-units", "", &flags));
    assert_eq!(file, flags);
    let printed = file.expect("all of it is right");
    for line in ["queue_bytes_max = 67108864", "connect_timeout_seconds = 300", "log_bytes_max = 2147483648"]
    {
        assert!(printed.lines().any(|printed| printed == line), "{line}: {printed}");
    }
}

#[test]
fn a_number_that_is_none_of_its_range_is_a_usage_error_that_says_the_range() {
    for (flags, said) in [
        (
            &["--queue-messages-max=-3"][..],
            "'--queue-messages-max <N>': expected 1 to 4,294,967,295 messages",
        ),
        (&["--queue-messages-max", "-3"], "'--queue-messages-max <N>': expected 1 to 4,294,967,295 messages"),
        (
            &["--queue-bytes-max=lots"],
            "'--queue-bytes-max <SIZE>': expected 1,024 bytes or more, for example",
        ),
        (&["--connect-timeout-seconds=2h"], "expected 1 to 3,600 seconds, for example 300 or 5m"),
        (&["--log-bytes-max=5"], "'--log-bytes-max <SIZE>': expected 524,288 bytes or more"),
    ] {
        let output = command().arg("check").args(flags).output().expect("it starts");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_said_with_what_to_do() {
    let place = std::env::temp_dir().join(format!("mqttd-unreadable-{}", std::process::id()));
    let said = || {
        let output = command().args(["check", "--config"]).arg(&place).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("UTF-8")
    };
    assert!(said().contains("there is no such file; `mqttd check` prints one"), "{}", said());
    std::fs::create_dir(&place).expect("the temporary folder is writable");
    assert!(said().contains("this is a directory; give the file in it"), "{}", said());
    std::fs::remove_dir(&place).expect("it was made");
    std::fs::write(&place, b"cores = 1\nlog = \"\xff\"\n").expect("the temporary folder is writable");
    assert!(said().contains(":2: this is not UTF-8"), "{}", said());
    std::fs::remove_file(&place).expect("it was written");
}

#[test]
fn nobody_reading_its_output_is_no_fault() {
    let mut child =
        command().arg("check").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    assert_eq!(wait(&mut child), Some(0));
}

/// Far more is logged than a pipe holds, and nobody reads it.
#[test]
fn a_log_that_nobody_reads_holds_up_neither_clients_nor_the_end() {
    const PINGS: usize = 5_000;
    let mqttd = Mqttd::start(&["--log", "trace"]);
    let mut client = connect(&mqttd);
    client.write_all(CONNECT).expect("it reads");
    client.write_all(&b"\xc0\x00".repeat(PINGS)).expect("it reads");
    // CONNACK and every PINGRESP.
    read(&mut client, 4 + 2 * PINGS);
    mqttd.signal(Signal::SIGTERM);
    let (code, _) = mqttd.wait();
    assert_eq!(code, Some(0));
}
