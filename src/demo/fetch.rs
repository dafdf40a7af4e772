//! A Postgres for machines that have none: one pinned package of Maven Central for each platform, taken
//! only with the very bytes known here, and kept as it came. What is kept is verified at each use.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::ProgressBar;
use liblzma::read::XzDecoder;
use sha2::{Digest as _, Sha256};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

use super::{DemoError, Surroundings};

/// PostgreSQL 17.11, built by <https://github.com/zonkyio/embedded-postgres-binaries>.
pub(super) const VERSION: &str = "17.11.0";

const REPOSITORY: &str = "https://repo1.maven.org/maven2/io/zonky/test/postgres";

/// Operating system and processor as Rust calls them, platform as the packages do, SHA-256 of the jar.
const PACKAGES: [(&str, &str, &str, &str); 4] = [
    ("linux", "x86_64", "linux-amd64", "0dd7b72b6f335b8ecfb355fa24c5781e8a93edd09880bb77eb52ebbf29b3e96d"),
    ("linux", "aarch64", "linux-arm64v8", "8b042e0ea418b1927d95399207950da0734d27fe01e29503ade3bdc464ad4c2b"),
    ("macos", "x86_64", "darwin-amd64", "d464ff178e9860ba204662ac23fa547504b7fd392392ff2fb92e3fd73b5bdb64"),
    (
        "macos",
        "aarch64",
        "darwin-arm64v8",
        "a1c2786acb0c398f9b2d76806fc52f5dc8b222cbc8e9383a9b9702084daaf3a5",
    ),
];

/// More than any of them: a server that sends without end is cut off.
const BYTES_MAX: u64 = 128 << 20;

/// Without an answer, or without another byte, for this long, the download has failed.
const PATIENCE: Duration = Duration::from_secs(20);

const INSTEAD: &str = "install Postgres (apt-get install postgresql, dnf install postgresql-server, \
                       brew install postgresql), or name the folder of its programs with --pg-bin";

/// Where certificates of authorities are kept: Debian and Alpine, Red Hat, SUSE, macOS and the BSDs.
const AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One file that can be fetched, and what must be in it.
#[derive(Debug, Clone)]
pub(super) struct Package {
    url: String,
    sha256: String,
    /// What it is called where it is kept.
    name: String,
}

impl Package {
    /// The one that runs on this machine.
    pub(super) fn of_this_machine() -> Result<Self, DemoError> {
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let found = PACKAGES.iter().find(|package| (package.0, package.1) == (os, arch));
        let Some((_, _, platform, sha256)) = found else {
            let reason = format!("it is not installed, and there is none to download for {os} on {arch}");
            return Err(DemoError::new("find Postgres", reason).hint(INSTEAD));
        };
        let artifact = format!("embedded-postgres-binaries-{platform}");
        Ok(Self {
            url: format!("{REPOSITORY}/{artifact}/{VERSION}/{artifact}-{VERSION}.jar"),
            sha256: (*sha256).to_owned(),
            name: format!("postgres-{VERSION}-{platform}.jar"),
        })
    }

    /// The host it comes from.
    pub(super) fn host(&self) -> &str {
        self.url.split('/').nth(2).unwrap_or_default()
    }

    /// Where it is kept, if it is there with the right bytes.
    pub(super) fn kept(&self, cache: &Path) -> Option<PathBuf> {
        let path = cache.join(&self.name);
        let mut hash = Sha256::new();
        let hashed = each_chunk(&mut File::open(&path).ok()?, |chunk| {
            hash.update(chunk);
            Ok(())
        });
        hashed.ok()?;
        (hex(hash) == self.sha256).then_some(path)
    }

    /// The unfinished file of a download by this process.
    pub(super) fn partial(&self, cache: &Path) -> PathBuf {
        cache.join(format!("{}.{}.part", self.name, std::process::id()))
    }

    /// Downloads it; blocks. What is kept is complete, or not there at all.
    pub(super) fn fetch(
        &self,
        cache: &Path,
        surroundings: &Surroundings,
        progress: &ProgressBar,
    ) -> Result<PathBuf, DemoError> {
        let partial = self.partial(cache);
        let fetched = self.download(&partial, surroundings, progress).and_then(|()| {
            let whole = cache.join(&self.name);
            let moved = fs::rename(&partial, &whole);
            moved.map_err(|error| DemoError::new(format!("write {}", whole.display()), error))?;
            Ok(whole)
        });
        if fetched.is_err() {
            let _ = fs::remove_file(&partial);
        }
        fetched
    }

    fn download(
        &self,
        partial: &Path,
        surroundings: &Surroundings,
        progress: &ProgressBar,
    ) -> Result<(), DemoError> {
        let failed = |error: &dyn std::fmt::Display| {
            DemoError::new(format!("download Postgres from {}", self.url), error).hint(INSTEAD)
        };
        let answer = agent(surroundings).get(&self.url).call().map_err(|error| failed(&error))?;
        let mut body = answer.into_body();
        progress.set_length(body.content_length().unwrap_or(0));
        let body = body.with_config().limit(BYTES_MAX).reader();
        let mut hash = Sha256::new();
        let written = File::create(partial).and_then(|mut file| {
            each_chunk(&mut progress.wrap_read(body), |chunk| {
                hash.update(chunk);
                file.write_all(chunk)
            })?;
            file.sync_all()
        });
        written.map_err(|error| failed(&error))?;
        let found = hex(hash);
        if found == self.sha256 {
            return Ok(());
        }
        Err(failed(&format!("its SHA-256 is {found} and must be {}; nothing of it was used", self.sha256)))
    }
}

fn each_chunk(reader: &mut impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => take(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hex(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

/// A client that trusts whom the system trusts; it uses a proxy if the environment names one.
fn agent(surroundings: &Surroundings) -> ureq::Agent {
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&authorities(surroundings)))
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    ureq::Agent::config_builder()
        .tls_config(tls)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .build()
        .new_agent()
}

fn authorities(surroundings: &Surroundings) -> Vec<ureq::tls::Certificate<'static>> {
    let system = AUTHORITIES.iter().map(PathBuf::from);
    let mut files = surroundings.certificates.clone().into_iter().chain(system);
    let Some(pem) = files.find_map(|file| fs::read(file).ok()) else { return Vec::new() };
    let certificate = |item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        // Bundles hold comments and, rarely, what no parser knows.
        Ok(_) | Err(_) => None,
    };
    parse_pem(&pem).filter_map(certificate).collect()
}

/// Unpacks the programs of `jar` into `folder`. Gives way after each file, so that it can be stopped.
pub(super) async fn unpack(jar: &Path, folder: &Path) -> Result<(), DemoError> {
    let failed = |error: &dyn std::fmt::Display| DemoError::new(format!("unpack {}", jar.display()), error);
    let file = File::open(jar).map_err(|error| failed(&error))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|error| failed(&error))?;
    let names: Vec<String> = zip.file_names().flatten().map(|name| name.into_owned()).collect();
    let name = names.iter().find(|name| name.ends_with(".txz"));
    let name = name.ok_or_else(|| failed(&"there is no .txz in it"))?;
    let packed = zip.by_name(name).map_err(|error| failed(&error))?;
    fs::create_dir(folder).map_err(|error| failed(&error))?;
    let mut archive = tar::Archive::new(XzDecoder::new(packed));
    for entry in archive.entries().map_err(|error| failed(&error))? {
        // `unpack_in` keeps what would leave the folder out of it.
        entry.and_then(|mut entry| entry.unpack_in(folder)).map_err(|error| failed(&error))?;
        tokio::task::yield_now().await;
    }
    open_folders(folder).map_err(|error| failed(&error))
}

/// Whoever Postgres runs as may pass through them, however strict our umask is. Nobody else gets this
/// far: the folder they are in is private.
fn open_folders(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Serves `body` to one who asks; its address.
    fn serve(body: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let request = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            request.take_while(|line| !line.is_empty()).for_each(drop);
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body).unwrap();
        });
        format!("http://{address}/package.jar")
    }

    fn package(url: String, content: &[u8]) -> Package {
        let mut hash = Sha256::new();
        hash.update(content);
        Package { url, sha256: hex(hash), name: "package.jar".to_owned() }
    }

    fn fetch(package: &Package, cache: &Path) -> Result<PathBuf, DemoError> {
        package.fetch(cache, &Surroundings::default(), &ProgressBar::hidden())
    }

    #[test]
    fn a_file_with_other_bytes_is_refused_and_nothing_of_it_stays() {
        let cache = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        let package = package(serve(b"evil"), b"good");
        let refused = fetch(&package, cache.path()).unwrap_err().to_string();
        assert!(refused.contains("SHA-256") && refused.contains(&package.sha256), "{refused}");
        assert!(refused.contains("hint: install Postgres"), "{refused}");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_was_fetched_is_kept_and_verified_at_each_use() {
        let cache = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        let package = package(serve(b"good"), b"good");
        assert_eq!(package.kept(cache.path()), None);
        let path = fetch(&package, cache.path()).unwrap();
        assert_eq!(package.kept(cache.path()), Some(path.clone()));
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
        fs::write(path, b"evil").unwrap();
        assert_eq!(package.kept(cache.path()), None);
    }

    #[test]
    fn without_a_network_it_says_what_to_install_instead() {
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let cache = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        let package = package(format!("http://{nobody}/package.jar"), b"good");
        let refused = fetch(&package, cache.path()).unwrap_err().to_string();
        assert!(refused.contains("hint: install Postgres") && refused.contains("--pg-bin"), "{refused}");
    }

    /// A jar as the packages are: a tar, packed by xz, in a zip.
    fn jar(path: &Path, entries: &[(&str, u32)]) {
        let mut tar = tar::Builder::new(liblzma::write::XzEncoder::new(Vec::new(), 1));
        for (name, mode) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(2);
            header.set_mode(*mode);
            // As somebody evil would: `set_path` refuses to leave the folder.
            header.as_ustar_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, &b"ok"[..]).unwrap();
        }
        let packed = tar.into_inner().unwrap().finish().unwrap();
        let mut zip = zip::ZipWriter::new(File::create(path).unwrap());
        zip.start_file("postgres.txz", zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(&packed).unwrap();
        zip.finish().unwrap();
    }

    #[tokio::test]
    async fn programs_are_unpacked_and_nothing_leaves_the_folder() {
        let folder = tempfile::TempDir::with_prefix("outbox-relay-demo").unwrap();
        let (path, programs) = (folder.path().join("package.jar"), folder.path().join("programs"));
        jar(&path, &[("bin/postgres", 0o755), ("../evil", 0o644)]);
        unpack(&path, &programs).await.unwrap();
        for path in [programs.join("bin"), programs.join("bin/postgres")] {
            let mode = fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o755);
        }
        assert!(!folder.path().join("evil").exists());
    }

    #[test]
    fn every_package_has_a_whole_checksum_of_its_own() {
        let sums: std::collections::BTreeSet<&str> = PACKAGES.iter().map(|package| package.3).collect();
        assert_eq!(sums.len(), PACKAGES.len());
        assert!(sums.iter().all(|sum| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit())));
    }
}
