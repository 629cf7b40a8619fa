//! Generates the code of ../proto, with a compiler of schemas that is a crate too.

use prost::Message;
use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = protox::compile(["peer.proto"], ["../proto"])?;
    let out = env::var("OUT_DIR")?;
    fs::write(Path::new(&out).join("peer.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    println!("cargo:rerun-if-changed=../proto/peer.proto");
    Ok(())
}
