//! Certificates for one test: an authority, and what it signed or did not. Made anew each time, with the
//! `openssl` command, so that none is ever in the repository and none expires there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What a server may present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    Good,
    Expired,
    /// For another host.
    WrongName,
    /// By nobody but itself.
    SelfSigned,
}

impl Served {
    pub const ALL: [Self; 4] = [Self::Good, Self::Expired, Self::WrongName, Self::SelfSigned];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Expired => "expired",
            Self::WrongName => "wrong_name",
            Self::SelfSigned => "self_signed",
        }
    }
}

/// A certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Pair {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// Both in one file, as Kafka wants them.
    pub fn in_one(&self) -> String {
        fs::read_to_string(&self.key).expect("it was made") + &self.text()
    }

    pub fn text(&self) -> String {
        fs::read_to_string(&self.certificate).expect("it was made")
    }
}

/// An authority with its files; gone with this value.
#[derive(Debug)]
pub struct Certificates {
    dir: TempDir,
}

const AUTHORITY: &str = "[ca]\ndefault_ca = test\n[test]\ndatabase = index.txt\nserial = serial\nnew_certs_dir = .\n\
    certificate = ca.pem\nprivate_key = ca.key\ndefault_md = sha256\npolicy = any\nunique_subject = no\n\
    copy_extensions = none\n[any]\ncommonName = supplied\n";

impl Certificates {
    pub fn make() -> Self {
        let dir =
            TempDir::with_prefix("outbox-relay-certificates").expect("the temporary directory takes files");
        let made = Self { dir };
        for (name, text) in [("ca.cnf", AUTHORITY), ("index.txt", ""), ("serial", "01\n")] {
            fs::write(made.path(name), text).expect("the temporary directory takes files");
        }
        made.sign_itself("ca", "test authority", "basicConstraints=critical,CA:TRUE");
        made
    }

    /// The certificate that clients and servers are to trust.
    pub fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// A server's, for `localhost` unless that is what is wrong with it.
    pub fn server(&self, served: Served) -> Pair {
        let name = served.name();
        match served {
            Served::Good => self.sign(name, "localhost", "20200101000000Z", "20900101000000Z"),
            Served::Expired => self.sign(name, "localhost", "20200101000000Z", "20200201000000Z"),
            Served::WrongName => self.sign(name, "elsewhere.example", "20200101000000Z", "20900101000000Z"),
            Served::SelfSigned => self.sign_itself(name, "localhost", "subjectAltName=DNS:localhost"),
        }
    }

    /// The file of a server's certificate that was made.
    pub fn server_file(&self, served: Served) -> PathBuf {
        self.pair(served.name()).certificate
    }

    /// A client's, for the user `name`.
    pub fn client(&self, name: &str) -> Pair {
        self.sign(name, name, "20200101000000Z", "20900101000000Z")
    }

    fn sign(&self, file: &str, name: &str, from: &str, until: &str) -> Pair {
        let pair = self.pair(file);
        let (request, extensions) = (format!("{file}.csr"), format!("{file}.cnf"));
        let text = format!("subjectAltName = DNS:{name}\nbasicConstraints = CA:FALSE\n");
        fs::write(self.path(&extensions), text).expect("the temporary directory takes files");
        self.openssl(&format!("req -new {KEY} -keyout {file}.key -out {request} -subj /CN={name}"));
        self.openssl(&format!(
            "ca -batch -notext -config ca.cnf -in {request} -out {file}.pem -extfile {extensions} \
             -startdate {from} -enddate {until}"
        ));
        pair
    }

    fn sign_itself(&self, file: &str, name: &str, extension: &str) -> Pair {
        let subject = format!("/CN={name}");
        let command =
            format!("req -x509 {KEY} -days 3650 -keyout {file}.key -out {file}.pem -addext {extension}");
        let arguments = command.split(' ').chain(["-subj", &subject]);
        self.run(arguments);
        self.pair(file)
    }

    fn pair(&self, file: &str) -> Pair {
        Pair { certificate: self.path(&format!("{file}.pem")), key: self.path(&format!("{file}.key")) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        self.run(arguments.split(' '));
    }

    fn run<'a>(&self, arguments: impl Iterator<Item = &'a str>) {
        let mut command = Command::new("openssl");
        let done = command.args(arguments).current_dir(self.dir.path()).output();
        let done = done.expect("openssl is installed: see scripts/prepare");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// Whether the server on `port` presents this certificate now. `protocol` is what it speaks before TLS,
/// as `openssl s_client -starttls` names it.
pub fn is_presented(port: u16, protocol: Option<&str>, certificate: &Path) -> bool {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &format!("127.0.0.1:{port}")]);
    if let Some(protocol) = protocol {
        command.args(["-starttls", protocol]);
    }
    let output = command.stdin(Stdio::null()).output().expect("openssl is installed");
    let wanted = fs::read_to_string(certificate).expect("it was made");
    let body: String = wanted.lines().filter(|line| !line.starts_with('-')).collect();
    let shown = String::from_utf8_lossy(&output.stdout).replace(['\n', '\r'], "");
    shown.contains(&body)
}
