//! Text forms of `tsvector` and `tsquery`.

use std::fmt::Write;

use super::DecodeError;
use super::wire::Reader;

pub(super) fn write_tsvector(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "tsvector");
    // A lexeme takes its terminator and a count of positions.
    for i in 0..reader.count(3)? {
        if i > 0 {
            out.push(' ');
        }
        write_lexeme(reader.c_string()?, out);
        for j in 0..reader.u16()? {
            let position = reader.u16()?;
            out.push(if j == 0 { ':' } else { ',' });
            write!(out, "{}", position & 0x3fff)?;
            out.push_str(match position >> 14 {
                3 => "A",
                2 => "B",
                1 => "C",
                _ => "",
            });
        }
    }
    reader.finish()
}

/// One node of the query tree, which the wire holds in Polish notation with
/// the right operand before the left.
enum Node<'a> {
    Lexeme { text: &'a str, weights: u8, prefix: bool },
    Not,
    And,
    Or,
    Phrase(u16),
}

impl Node<'_> {
    fn priority(&self) -> u8 {
        match self {
            Node::Lexeme { .. } => u8::MAX,
            Node::Not => 4,
            Node::Phrase(_) => 3,
            Node::And => 2,
            Node::Or => 1,
        }
    }
}

/// What is still to be written, last first. An explicit stack, because a query
/// of ten thousand terms is a tree as deep.
enum Task {
    /// The tree that starts at `index`, under an operator of `priority`.
    Tree {
        index: usize,
        priority: u8,
        right_of_phrase: bool,
    },
    Operator {
        index: usize,
    },
    Close,
}

pub(super) fn write_tsquery(bytes: &[u8], out: &mut String) -> Result<(), DecodeError> {
    let mut reader = Reader::new(bytes, "tsquery");
    let mut nodes = Vec::new();
    // The smallest node is an operator: its kind and itself.
    for _ in 0..reader.count(2)? {
        nodes.push(read_node(&mut reader)?);
    }
    reader.finish()?;
    if nodes.is_empty() {
        return Ok(());
    }

    let left = left_operands(&nodes)?;
    let mut tasks = vec![Task::Tree {
        index: 0,
        priority: 0,
        right_of_phrase: false,
    }];
    while let Some(task) = tasks.pop() {
        match task {
            Task::Close => out.push_str(" )"),
            Task::Operator { index } => match nodes.get(index) {
                Some(Node::Or) => out.push_str(" | "),
                Some(Node::And) => out.push_str(" & "),
                Some(Node::Phrase(1)) => out.push_str(" <-> "),
                Some(Node::Phrase(distance)) => write!(out, " <{distance}> ")?,
                Some(Node::Lexeme { .. } | Node::Not) | None => {}
            },
            Task::Tree {
                index,
                priority: outer,
                right_of_phrase,
            } => {
                let Some(node) = nodes.get(index) else {
                    return Err(incomplete());
                };
                let priority = node.priority();
                // "a <-> (b <-> c)" is not "(a <-> b) <-> c".
                if priority < outer || (matches!(node, Node::Phrase(_)) && right_of_phrase) {
                    out.push_str("( ");
                    tasks.push(Task::Close);
                }
                let operand = index.saturating_add(1);
                match node {
                    Node::Lexeme { text, weights, prefix } => {
                        write_lexeme(text, out);
                        write_restriction(*weights, *prefix, out);
                    }
                    Node::Not => {
                        out.push('!');
                        tasks.push(Task::Tree {
                            index: operand,
                            priority,
                            right_of_phrase: false,
                        });
                    }
                    Node::And | Node::Or | Node::Phrase(_) => {
                        tasks.push(Task::Tree {
                            index: operand,
                            priority,
                            right_of_phrase: matches!(node, Node::Phrase(_)),
                        });
                        tasks.push(Task::Operator { index });
                        tasks.push(Task::Tree {
                            index: left.get(index).copied().unwrap_or(operand),
                            priority,
                            right_of_phrase: false,
                        });
                    }
                }
            }
        }
    }
    Ok(())
}

fn read_node<'a>(reader: &mut Reader<'a>) -> Result<Node<'a>, DecodeError> {
    match reader.u8()? {
        1 => Ok(Node::Lexeme {
            weights: reader.u8()?,
            prefix: reader.u8()? != 0,
            text: reader.c_string()?,
        }),
        2 => match reader.u8()? {
            1 => Ok(Node::Not),
            2 => Ok(Node::And),
            3 => Ok(Node::Or),
            4 => Ok(Node::Phrase(reader.u16()?)),
            other => Err(DecodeError::new(format!(
                "expected operator 1 to 4 of tsquery, found {other}"
            ))),
        },
        other => Err(DecodeError::new(format!(
            "expected node kind 1 or 2 of tsquery, found {other}"
        ))),
    }
}

/// Where the left operand of each binary operator starts. Fails unless the
/// nodes make one whole tree, so that the walk visits each node once.
fn left_operands(nodes: &[Node<'_>]) -> Result<Vec<usize>, DecodeError> {
    let mut left = vec![0; nodes.len()];
    // Ends of the trees that follow the node, nearest last.
    let mut ends = Vec::new();
    for (index, node) in nodes.iter().enumerate().rev() {
        match node {
            Node::Lexeme { .. } => ends.push(index.saturating_add(1)),
            Node::Not => {
                if ends.is_empty() {
                    return Err(incomplete());
                }
            }
            Node::And | Node::Or | Node::Phrase(_) => {
                let (Some(right_end), Some(_)) = (ends.pop(), ends.last()) else {
                    return Err(incomplete());
                };
                if let Some(left) = left.get_mut(index) {
                    *left = right_end;
                }
            }
        }
    }
    match ends.as_slice() {
        [end] if *end == nodes.len() => Ok(left),
        _ => Err(incomplete()),
    }
}

fn incomplete() -> DecodeError {
    DecodeError::new("expected the nodes of tsquery to make one tree, found a part or several")
}

fn write_restriction(weights: u8, prefix: bool, out: &mut String) {
    if weights == 0 && !prefix {
        return;
    }
    out.push(':');
    if prefix {
        out.push('*');
    }
    for (bit, letter) in [(8, 'A'), (4, 'B'), (2, 'C'), (1, 'D')] {
        if weights & bit != 0 {
            out.push(letter);
        }
    }
}

fn write_lexeme(text: &str, out: &mut String) {
    out.push('\'');
    for c in text.chars() {
        if matches!(c, '\'' | '\\') {
            out.push(c);
        }
        out.push(c);
    }
    out.push('\'');
}
