//! A Rust file seen through the eyes of a lexer: comments and literals blanked out, test modules known,
//! functions with their lengths. Enough for the house rules; the compiler does the rest.

/// A function and how long its body is.
pub(super) struct Function {
    pub(super) name: String,
    /// The line of its `fn`, from 1.
    pub(super) line: usize,
    /// Lines of the body between its braces.
    pub(super) length: usize,
}

/// The code of a file without comments, literals and `#[cfg(test)]` modules; line numbers are kept.
pub(super) fn code(text: &str) -> String {
    without_tests(&blank(text))
}

/// Blanks comments, strings and characters, keeping every line break.
pub(super) fn blank(text: &str) -> String {
    let mut rest = text;
    let mut out = String::with_capacity(text.len());
    while let Some(first) = rest.chars().next() {
        let before = out.chars().next_back();
        let taken = skipped(rest, before).unwrap_or(0);
        if taken == 0 {
            out.push(first);
            rest = rest.get(first.len_utf8()..).unwrap_or("");
        } else {
            let (gone, left) = rest.split_at(taken);
            out.push(' ');
            out.extend(gone.chars().filter(|&c| c == '\n'));
            rest = left;
        }
    }
    out
}

/// The length of the comment or literal that `rest` begins with.
fn skipped(rest: &str, before: Option<char>) -> Option<usize> {
    let in_word = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(block_comment(rest));
    }
    if rest.starts_with('"') {
        return Some(1 + string_end(rest.get(1..)?));
    }
    if rest.starts_with('\'') {
        return character(rest);
    }
    if in_word {
        return None;
    }
    let tail = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = tail.len() - tail.trim_start_matches('#').len();
    let body = tail.get(hashes..)?.strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = body.find(&close).map_or(body.len(), |at| at + close.len());
    Some(rest.len() - body.len() + end)
}

/// Comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while let Some(tail) = rest.get(at..).filter(|t| !t.is_empty()) {
        let step = if tail.starts_with("/*") {
            depth += 1;
            2
        } else if tail.starts_with("*/") {
            depth -= 1;
            2
        } else {
            tail.chars().next().map_or(1, char::len_utf8)
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Bytes up to and with the closing quote.
fn string_end(body: &str) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    body.len()
}

/// A character literal, not a lifetime.
fn character(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (_, first) = chars.next()?;
    if first != '\\' {
        return chars.next().filter(|&(_, c)| c == '\'').map(|(at, _)| at + 1);
    }
    chars.next()?;
    chars.find(|&(_, c)| c == '\'').map(|(at, _)| at + 1)
}

/// Blanks the bodies of `#[cfg(test)] mod …` in blanked code.
fn without_tests(code: &str) -> String {
    let mut out = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        let (before, marked) = rest.split_at(at);
        out.push_str(before);
        let item = marked.find(['{', ';']).unwrap_or(marked.len());
        let end = if marked.get(item..).is_some_and(|t| t.starts_with('{')) {
            item + braces(marked.get(item..).unwrap_or(""))
        } else {
            (item + 1).min(marked.len())
        };
        let (gone, left) = marked.split_at(end);
        out.extend(gone.chars().filter(|&c| c == '\n'));
        rest = left;
    }
    out.push_str(rest);
    out
}

/// Bytes from an opening brace to behind its partner.
fn braces(code: &str) -> usize {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// Every function with a body in blanked code.
pub(super) fn functions(code: &str) -> Vec<Function> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let starts_word = code.get(..at).and_then(|b| b.chars().next_back());
        if starts_word.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let tail = code.get(at + 3..).unwrap_or("");
        let name: String = tail.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
        let Some(open) = body(tail).filter(|_| !name.is_empty()) else { continue };
        let whole = tail.get(open..).unwrap_or("");
        let text = whole.get(..braces(whole)).unwrap_or("");
        let line = 1 + code.get(..at).unwrap_or("").matches('\n').count();
        found.push(Function { name, line, length: text.matches('\n').count().saturating_sub(1).max(1) });
    }
    found
}

/// Where the body begins; `None` for a declaration without one.
fn body(signature: &str) -> Option<usize> {
    let mut depth = 0i32;
    for (at, c) in signature.char_indices() {
        match c {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            ';' if depth == 0 => return None,
            '{' if depth == 0 => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked() {
        let text = "a /* x /* y */ \n z */ b \"q\\\"{\" c r#\"}\"# '\\'' '{' &'a str // end {\nd";
        let blanked = blank(text);
        let words: Vec<&str> = blanked.split_whitespace().collect();
        assert_eq!(words, ["a", "b", "c", "&'a", "str", "d"]);
        assert_eq!(blanked.matches('\n').count(), text.matches('\n').count());
    }

    #[test]
    fn test_modules_do_not_count() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() { let x = 1; }\n}\nfn c() {}\n";
        let names: Vec<String> = functions(&code(text)).into_iter().map(|f| f.name).collect();
        assert_eq!(names, ["a", "c"]);
        assert_eq!(functions(&code("#[cfg(test)]\nmod tests;\nfn a() {}")).len(), 1);
    }

    #[test]
    fn a_function_is_as_long_as_its_body() {
        let found =
            functions("trait T { fn d(&self); }\nfn long(\n    a: [u8; 2],\n) -> u8 {\n    1;\n    2\n}\n");
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].line, found[0].length), ("long", 2, 2));
    }
}
