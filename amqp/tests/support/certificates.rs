//! Certificates for a test: an authority, and what it signs.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};

/// An authority of a test's own, in a directory that goes with this value.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    pub folder: PathBuf,
}

impl Authority {
    /// A new one; `ca.pem` is in its folder.
    pub fn new(name: &str) -> Authority {
        let folder = std::env::temp_dir().join(format!("certs-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("the temporary directory can be written");
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("it can be signed");
        write(&folder.join("ca.pem"), &issuer.pem());
        Authority { issuer, folder }
    }

    pub fn ca_file(&self) -> String {
        self.path("ca.pem")
    }

    /// Signs a certificate: `<file>.pem` and `<file>.key`, for this common name and these host names. `change` may
    /// spoil it.
    pub fn sign(
        &self,
        file: &str,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (String, String) {
        let mut params = params(name, hosts);
        change(&mut params);
        let key = key();
        let signed = params.signed_by(&key, &self.issuer);
        let (pem, key_file) = (format!("{file}.pem"), format!("{file}.key"));
        write(
            &self.folder.join(&pem),
            &signed.expect("it can be signed").pem(),
        );
        write(&self.folder.join(&key_file), &key.serialize_pem());
        (self.path(&pem), self.path(&key_file))
    }

    fn path(&self, file: &str) -> String {
        self.folder.join(file).display().to_string()
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        // What stays behind is in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
    let mut params = CertificateParams::new(hosts).expect("host names are ASCII");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn key() -> KeyPair {
    KeyPair::generate().expect("there is randomness")
}

fn write(file: &Path, text: &str) {
    std::fs::write(file, text).expect("the temporary directory can be written");
}
