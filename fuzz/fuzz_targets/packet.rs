//! A head of any bytes: read as a packet or refused, never anything else.
#![no_main]

use bits_core::{Ack, Form, Packet};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(head) = head(data) else { return };
    let Some(form) = Form::of(&head) else { return };
    match Packet::parse(&head, form) {
        Ok(packet) => drop(packet.session()),
        Err(refusal) => drop(Ack::refused(refusal, None)),
    }
});

/// Lines as hyper would take them.
fn head(data: &[u8]) -> Option<http::request::Parts> {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut first = lines.next()?.splitn(2, |byte| *byte == b' ');
    let mut request = http::Request::builder().method(first.next()?).uri(first.next()?);
    for line in lines {
        let at = line.iter().position(|byte| *byte == b':')?;
        request = request.header(&line[..at], line[at + 1..].trim_ascii());
    }
    Some(request.body(()).ok()?.into_parts().0)
}
