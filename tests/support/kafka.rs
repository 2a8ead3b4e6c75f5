//! A real Apache Kafka: one node in KRaft mode, its own data directory, small heap, default retention.

use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use super::parts::{kafka_lib, python, script, which};
use super::process::{Process, run_to_end, tail};
use super::scratch::Scratch;
use super::wait::{free_port, seconds, wait_until};

const NODE_ID: u32 = 1;

/// What differs from a plain node.
#[derive(Clone, Debug, Default)]
pub(crate) struct KafkaOptions {
    /// Lines of server.properties, appended; `{dir}` is the node's directory.
    pub(crate) properties: String,
    /// A second listener for gateways, such as `SASL_PLAINTEXT` or `SSL`.
    pub(crate) edge_protocol: Option<&'static str>,
    /// The port under which clients find that listener, where something stands before it.
    pub(crate) edge_behind: Option<u16>,
    /// A SCRAM-SHA-512 user and password to be known from the beginning.
    pub(crate) scram: Option<(&'static str, &'static str)>,
}

/// A node that can be stopped, killed, and started again with the same data and port.
#[derive(Debug)]
pub(crate) struct Kafka {
    /// Port of the plaintext listener; the tests' own clients use it too.
    pub(crate) port: u16,
    /// Port of the listener asked for with `edge_protocol`.
    pub(crate) edge_port: Option<u16>,
    process: Option<Process>,
    scratch: Scratch,
}

impl Kafka {
    /// A plain node, running.
    #[track_caller]
    pub(crate) fn start() -> Self {
        let mut kafka = Self::stopped();
        kafka.restart();
        kafka
    }

    /// A plain node, ready to be started with [`Kafka::restart`].
    #[track_caller]
    pub(crate) fn stopped() -> Self {
        Self::prepared(Scratch::new("kafka"), &KafkaOptions::default())
    }

    /// A running node with options.
    #[track_caller]
    pub(crate) fn with(scratch: Scratch, options: &KafkaOptions) -> Self {
        let mut kafka = Self::prepared(scratch, options);
        kafka.restart();
        kafka
    }

    /// One node that all tests of a file share, for those that never stop it. Use topics of your own.
    #[track_caller]
    pub(crate) fn shared() -> &'static Self {
        // A static is never dropped: the kernel ends the node together with the test process.
        static SHARED: OnceLock<Kafka> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    fn prepared(scratch: Scratch, options: &KafkaOptions) -> Self {
        let (port, controller) = (free_port(), free_port());
        let edge_port = options.edge_protocol.map(|_| free_port());
        let directory = scratch.path().to_str().unwrap().to_owned();
        let mut listeners = format!("PLAINTEXT://127.0.0.1:{port}");
        let mut advertised = listeners.clone();
        let mut protocols = "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT".to_owned();
        if let (Some(protocol), Some(port)) = (options.edge_protocol, edge_port) {
            listeners += &format!(",EDGE://127.0.0.1:{port}");
            advertised += &format!(",EDGE://127.0.0.1:{}", options.edge_behind.unwrap_or(port));
            protocols += &format!(",EDGE:{protocol}");
        }
        scratch.write(
            "server.properties",
            &format!(
                "process.roles=broker,controller\nnode.id={NODE_ID}\n\
                 controller.quorum.voters={NODE_ID}@127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
                 listeners={listeners},CONTROLLER://127.0.0.1:{controller}\nadvertised.listeners={advertised}\n\
                 listener.security.protocol.map={protocols}\nlog.dirs={directory}/data\n\
                 num.partitions=3\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\ncontrolled.shutdown.enable=false\n\
                 num.network.threads=2\nnum.io.threads=2\n\
                 broker.session.timeout.ms=2000\nbroker.heartbeat.interval.ms=500\n\
                 {}\n",
                options.properties.replace("{dir}", &directory)
            ),
        );
        scratch.write(
            "log4j2.properties",
            "status=error\nappender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\n\
             appender.out.layout.pattern=%d{HH:mm:ss.SSS} %p %c: %m%n\nrootLogger.level=warn\n\
             rootLogger.appenderRef.out.ref=out\nlogger.server.name=kafka.server.KafkaRaftServer\n\
             logger.server.level=info\n",
        );
        let kafka = Self { port, edge_port, process: None, scratch };
        let mut arguments = kafka.java_arguments("kafka.tools.StorageTool", 64);
        arguments.extend(["format", "-t", "dGlkZWdhdGUtdGVzdHMhIQ", "-c"].map(String::from));
        arguments.push(kafka.scratch.join("server.properties").to_str().unwrap().into());
        if let Some((user, password)) = options.scram {
            arguments.push("--add-scram".into());
            arguments.push(format!("SCRAM-SHA-512=[name={user},password={password}]"));
        }
        let java = which("java").expect("need!(Kafka) comes first");
        run_to_end("Kafka's storage format", &java, &arguments, seconds(60), &kafka.log());
        kafka
    }

    fn log(&self) -> PathBuf {
        self.scratch.join("kafka.log")
    }

    fn java_arguments(&self, class: &str, heap_mb: u32) -> Vec<String> {
        vec![
            format!("-Xmx{heap_mb}m"),
            // A broker that lives for a minute starts sooner, and disturbs less, without the optimising compiler.
            "-XX:TieredStopAtLevel=1".into(),
            "-XX:+UseSerialGC".into(),
            "-Xshare:auto".into(),
            format!("-Dlog4j2.configurationFile={}", self.scratch.join("log4j2.properties").display()),
            "-cp".into(),
            format!("{}/*", kafka_lib().display()),
            class.into(),
        ]
    }

    /// Starts it (it must be stopped) with the same data and port, and waits until it serves.
    #[track_caller]
    pub(crate) fn restart(&mut self) {
        self.restart_without_waiting();
        self.wait_ready();
    }

    /// Starts it and returns at once.
    #[track_caller]
    pub(crate) fn restart_without_waiting(&mut self) {
        assert!(self.process.is_none(), "Kafka runs already");
        let java = which("java").expect("need!(Kafka) comes first");
        let mut arguments = self.java_arguments("kafka.Kafka", 384);
        arguments.push(self.scratch.join("server.properties").to_str().unwrap().into());
        self.process = Some(Process::spawn("Kafka", &java, &arguments, &[], &self.log()));
    }

    /// Waits until it serves.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        let process = self.process.as_mut().expect("Kafka was started");
        process.wait_for_output("Kafka Server started", seconds(60));
        let port = self.port;
        wait_until(seconds(10), "Kafka to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    }

    /// SIGTERM, and SIGKILL if that takes too long.
    #[track_caller]
    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().expect("Kafka runs");
        process.terminate(seconds(60));
    }

    /// SIGKILL.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.take().expect("Kafka runs").kill();
    }

    /// `host:port` of the plaintext listener.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Runs a command of `admin.py` against it: `create-topic NAME PARTITIONS`, `deny-write USER TOPIC`, …
    #[track_caller]
    pub(crate) fn admin(&self, arguments: &[&str]) -> String {
        let mut all = vec![script("admin.py").to_str().unwrap().to_owned(), self.address()];
        all.extend(arguments.iter().map(ToString::to_string));
        run_to_end("admin.py", &python(), &all, seconds(30), &self.scratch.join("admin.log"))
    }

    /// The end of its log, for a message.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log())
    }
}
