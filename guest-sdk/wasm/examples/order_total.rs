//! The function of order_total.c in Rust, with nothing but its standard library.
//!
//!     rustc --target wasm32-wasip1 -O -o functions/order_total.wasm order_total.rs

use std::fs::OpenOptions;
use std::io::{read_to_string, stdin, BufRead, BufReader, Write};

/// How it wants to be served: a custom section named "flux".
#[link_section = "flux"]
pub static DECLARED: [u8; 55] = *b"{\"route\": \"GET /orders/{id}/total\", \"timeout\": \"5s\"}   ";

fn main() {
    let document = read_to_string(stdin()).expect("the document");
    let input = document.split("\"input\":").nth(1).expect("an input");
    let id = input.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");

    // Descriptor 3 by name.
    let mut wire = OpenOptions::new().read(true).write(true).open("/dev/flux").expect("the wire");
    let sql = "select sum(price)::int from items where order_id = $1";
    let at = format!("{{\"at\":[\"order_total.rs\",{},\"main\"]}}", line!());
    writeln!(wire, "[1,\"db.query\",[\"{sql}\",[{id}]],{at}]").expect("to ask");
    let mut answer = String::new();
    BufReader::new(wire).read_line(&mut answer).expect("an answer");

    let total = answer.split("\"rows\":[[").nth(1).and_then(|rest| rest.split(']').next()).expect("a row");
    print!("{{\"order\":{id},\"total\":{total}}}");
}
