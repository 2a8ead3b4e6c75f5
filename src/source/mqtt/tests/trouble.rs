//! Brokers that are absent, refuse, fall silent or send what is too much.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::broker::{Broker, free_port, numbers};
use super::{Commits, Rig, settings, wait_for};
use crate::config::{self, MqttVersion, Secret};
use crate::counters::Count;

const VERSIONS: [MqttVersion; 2] = [MqttVersion::V4, MqttVersion::V5];

#[test]
fn an_absent_broker_is_tried_again() {
    let port = free_port();
    let rig = Rig::start(settings(MqttVersion::V4, port), "absent", Commits::Always, &["t"]);
    rig.wait_down("connecting to 127.0.0.1");
    wait_for("a second attempt", || rig.count(Count::ConnectionErrors) >= 2);
    assert_eq!(rig.count(Count::Connects), 0);
    rig.stop();
}

#[test]
fn refused_credentials_are_named_and_right_ones_connect() {
    for version in VERSIONS {
        let broker = Broker::start(|dir| {
            let file = dir.join("passwords");
            std::fs::write(&file, "").unwrap();
            let added = Command::new("mosquitto_passwd").arg("-b").arg(&file).args(["gateway", "secret"]).status();
            assert!(added.unwrap().success());
            format!("allow_anonymous false\npassword_file {}\n", file.display())
        });
        let mut wrong = settings(version, broker.port);
        wrong.user = Some("gateway".to_owned());
        wrong.password = Some(Secret::new("wrong".to_owned()));
        let rig = Rig::start(wrong.clone(), "login", Commits::Always, &["t"]);
        rig.wait_down("the broker refused the connection: not authorized");
        rig.stop();
        wrong.password = Some(Secret::new("secret".to_owned()));
        let rig = Rig::start(wrong, "login", Commits::Always, &["t"]);
        rig.wait_up();
        rig.stop();
    }
}

#[test]
fn a_refused_subscription_is_shown_and_the_others_go_on() {
    for version in VERSIONS {
        let broker = Broker::start(|dir| {
            let file = dir.join("dynamic.json");
            let acls = r##"[{"acltype":"subscribePattern","topic":"open/#","priority":0,"allow":true},
                {"acltype":"publishClientSend","topic":"#","priority":0,"allow":true}]"##;
            let access =
                r#"{"publishClientSend":false,"publishClientReceive":true,"subscribe":false,"unsubscribe":true}"#;
            let json = format!(
                r#"{{"defaultACLAccess":{access},"clients":[],"anonymousGroup":"any",
                "groups":[{{"groupname":"any","roles":[{{"rolename":"any"}}]}}],
                "roles":[{{"rolename":"any","acls":{acls}}}]}}"#
            );
            std::fs::write(&file, json).unwrap();
            let plugin = "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so";
            format!("plugin {plugin}\nplugin_opt_config_file {}\n", file.display())
        });
        let rig = Rig::start(settings(version, broker.port), "acl", Commits::Always, &["closed/#", "open/#"]);
        rig.wait_up();
        let detail = rig.link().detail;
        assert!(detail.contains("closed/# (") && !detail.contains("open/#"), "{detail}");
        assert_eq!(rig.count(Count::SubscriptionsRefused), 1);
        broker.publish(&[], "open/a", 1, &numbers(1, 3));
        rig.wait_frames(3);
        rig.stop();
    }
}

#[test]
fn a_huge_packet_is_read_past_and_the_rest_goes_on() {
    for version in VERSIONS {
        let broker = Broker::plain();
        let rig = Rig::start(settings(version, broker.port), "huge", Commits::Always, &["t/#"]);
        rig.wait_up();
        let file = broker.dir.path().join("huge");
        std::fs::write(&file, vec![b'x'; 10_000_000]).unwrap();
        for qos in [0_u8, 1] {
            let topic = format!("t/huge/{qos}");
            let sent = Command::new("mosquitto_pub")
                .args(["-h", "127.0.0.1", "-p", &broker.port.to_string(), "-t", &topic, "-q", &qos.to_string(), "-f"])
                .arg(&file)
                .status();
            assert!(sent.unwrap().success());
        }
        broker.publish(&[], "t/small", 1, &numbers(1, 50));
        rig.wait_frames(52);
        let state = rig.store.state();
        assert_eq!(state.taken.iter().filter(|taken| taken.oversize == Some(10_000_000)).count(), 2);
        assert_eq!(state.taken[51].text, "50");
        drop(state);
        assert_eq!(rig.count(Count::ConnectionErrors), 0);
        rig.stop();
    }
}

/// Nothing becomes durable for longer than the broker's patience (1.5 times the keep-alive): the source stops reading at
/// its budget, its pings keep the connection, and afterwards every message is there.
#[test]
fn a_burst_of_qos_0_beyond_the_budget_holds_the_broker_back_and_the_connection_lives() {
    let broker = Broker::start(|_| "max_queued_messages 0\n".to_owned());
    let mut settings = settings(MqttVersion::V4, broker.port);
    settings.keep_alive = Duration::from_secs(2);
    settings.memory_bytes_max = 1024 * 1024;
    let rig = Rig::start(settings, "burst", Commits::Never, &["t"]);
    rig.wait_up();
    let text = "0123456789".repeat(6) + "\n";
    broker.publish(&[], "t", 0, &text.repeat(200_000));
    rig.wait_frames(1000);
    std::thread::sleep(Duration::from_secs(6));
    let taken = rig.store.state().frames;
    // The budget and what one read can bring.
    assert!(taken < 200_000 && taken * 64 < 2 * 1024 * 1024, "not held back: {taken}");
    assert_eq!(rig.count(Count::ConnectionErrors), 0);
    rig.store.commit(Commits::Always);
    rig.wait_frames(200_000);
    assert_eq!((rig.store.state().frames, rig.count(Count::ConnectionErrors)), (200_000, 0));
    rig.stop();
}

/// The test's own broker: accepts, reads CONNECT, and then does what it is told; the same for whoever connects after that.
fn false_broker(then: impl Fn(std::net::TcpStream) + Send + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for _ in 0..20 {
            let (mut socket, _) = listener.accept().unwrap();
            let mut connect = [0; 2];
            socket.read_exact(&mut connect).unwrap();
            let mut rest = vec![0; connect[1].into()];
            socket.read_exact(&mut rest).unwrap();
            then(socket);
        }
    });
    port
}

#[test]
fn a_silent_broker_is_given_up() {
    let port = false_broker(|mut socket| {
        socket.write_all(&[0x20, 2, 1, 0]).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let mut settings = settings(MqttVersion::V4, port);
    settings.keep_alive = Duration::from_secs(1);
    let rig = Rig::start(settings, "silent", Commits::Always, &["t"]);
    rig.wait_down("the broker is silent");
    assert!(rig.count(Count::ConnectionErrors) > 0);
    rig.stop();
}

#[test]
fn a_session_that_was_taken_over_is_named_and_not_fought_for() {
    let port = false_broker(|mut socket| {
        socket.write_all(&[0x20, 3, 1, 0, 0, 0xe0, 1, 0x8e]).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let rig = Rig::start(settings(MqttVersion::V5, port), "twice", Commits::Always, &["t"]);
    rig.wait_down("another client has connected with the client id \"twice\"");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(rig.count(Count::ConnectionErrors), 1, "no haste to take it back");
    rig.stop();
}

#[test]
fn what_is_not_mqtt_is_said_to_be_so() {
    let port = false_broker(|mut socket| {
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let rig = Rig::start(settings(MqttVersion::V4, port), "http", Commits::Always, &["t"]);
    rig.wait_down("not MQTT");
    rig.stop();
}

#[test]
fn a_malformed_packet_ends_the_connection_and_what_came_before_is_kept() {
    let port = false_broker(|mut socket| {
        let mut bytes = vec![0x20, 2, 0, 0];
        bytes.extend([0x30, 4, 0, 1, b't', b'1']);
        bytes.extend([0x32, 3, 0, 9, b't']);
        socket.write_all(&bytes).unwrap();
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let rig = Rig::start(settings(MqttVersion::V4, port), "bad", Commits::Always, &["t"]);
    wait_for("the error", || rig.count(Count::ConnectionErrors) > 0);
    rig.wait_frames(1);
    rig.stop();
}

fn openssl(dir: &Path, args: &str) {
    let output =
        Command::new("openssl").current_dir(dir).args(args.split(' ')).stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

fn certificates(dir: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -subj /CN=test-ca"));
    std::fs::write(dir.join("san"), "subjectAltName=DNS:localhost,IP:127.0.0.1").unwrap();
    for name in ["server", "client"] {
        openssl(dir, &format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san";
        openssl(dir, &format!("x509 -req -in {name}.csr {sign} -out {name}.pem"));
    }
}

#[test]
fn tls_with_a_client_certificate_works_and_its_errors_name_the_file() {
    let mut tls_port = 0;
    let broker = Broker::start(|dir| {
        certificates(dir);
        tls_port = free_port();
        let at = dir.display();
        format!(
            "listener {tls_port} 127.0.0.1\ncafile {at}/ca.pem\ncertfile {at}/server.pem\nkeyfile {at}/server.key\n\
             require_certificate true\n"
        )
    });
    let dir = broker.dir.path();
    let file = |name: &str| Some(dir.join(name));
    let with = |tls| config::Mqtt { tls: Some(tls), ..settings(MqttVersion::V5, tls_port) };

    let good = config::Tls {
        ca: file("ca.pem"),
        certificate: file("client.pem"),
        key: file("client.key"),
        ..config::Tls::default()
    };
    let rig = Rig::start(with(good.clone()), "tls", Commits::Always, &["t"]);
    rig.wait_up();
    broker.publish(&[], "t", 1, &numbers(1, 2000));
    rig.wait_frames(2000);
    rig.stop();

    let cases = [
        (config::Tls { ca: file("none.pem"), ..good.clone() }, "expected certificates (PEM) in"),
        (config::Tls { ca: file("client.key"), ..good.clone() }, "client.key, found none"),
        (config::Tls { ca: file("client.pem"), ..good.clone() }, "TLS handshake failed"),
        (config::Tls { key: None, ..good.clone() }, "set tls.key too"),
        (config::Tls { key: file("ca.pem"), ..good.clone() }, "expected a private key (PEM) in"),
        (config::Tls { key: file("server.key"), ..good }, "do not fit together"),
    ];
    for (tls, text) in cases {
        let rig = Rig::start(with(tls), "tls", Commits::Always, &["t"]);
        rig.wait_down(text);
        rig.stop();
    }
}
