//! From [`TlsOptions`] to rustls's configuration: reads the files and the system's authorities.

use super::{ServerName, TlsOptions, verify};
use crate::error::Error;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// Blocks for some milliseconds: files are read.
///
/// # Errors
/// [`Error::Options`], which names the file.
pub(super) fn client_config(options: &TlsOptions) -> Result<ClientConfig, Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring can do both versions");
    let builder = match (options.verify_peer, &options.server_name) {
        (false, _) => builder
            .dangerous()
            .with_custom_certificate_verifier(verify::any_certificate(provider)),
        (true, ServerName::Disabled) => builder
            .dangerous()
            .with_custom_certificate_verifier(verify::any_name(authorities(options)?, provider)?),
        (true, _) => builder.with_root_certificates(authorities(options)?),
    };
    let mut config = match &options.cert_file {
        None if options.key_file.is_some() => {
            return Err(Error::Options(
                "TLS: keyfile is given without certfile".into(),
            ));
        }
        None => builder.with_no_client_auth(),
        Some(cert_file) => {
            let key_file = options.key_file.as_ref().unwrap_or(cert_file);
            let key = PrivateKeyDer::from_pem_file(key_file)
                .map_err(|error| unusable("keyfile", key_file, error))?;
            builder
                .with_client_auth_cert(certificates("certfile", cert_file)?, key)
                .map_err(|error| unusable("certfile", cert_file, error))?
        }
    };
    config.enable_sni = options.server_name != ServerName::Disabled;
    Ok(config)
}

fn authorities(options: &TlsOptions) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    match &options.ca_file {
        Some(file) => {
            for certificate in certificates("cacertfile", file)? {
                store
                    .add(certificate)
                    .map_err(|error| unusable("cacertfile", file, error))?;
            }
        }
        None => {
            // A system's store may hold some that rustls cannot read: those are passed over.
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if store.is_empty() {
                let text = "TLS: this system trusts no authorities: name one with cacertfile";
                return Err(Error::Options(text.into()));
            }
        }
    }
    Ok(Arc::new(store))
}

fn certificates(option: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all: Vec<_> = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(option, file, error))?;
    match all.is_empty() {
        true => Err(unusable(
            option,
            file,
            "it holds no certificate in PEM form",
        )),
        false => Ok(all),
    }
}

fn unusable(option: &str, file: &Path, why: impl Display) -> Error {
    Error::Options(format!("TLS: {option} {}: {why}", file.display()))
}
