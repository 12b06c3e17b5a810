/**
 * XML of the S3 protocol: a strict small reader and a writer.
 *
 * The reader knows elements, text, the five named entities, character references, CDATA, comments
 * and one XML declaration. It refuses document types, further entities and processing
 * instructions, so nothing can expand; depth, number of elements and size are limited. Attributes
 * are read over and dropped, prefixes of names as well. Written here instead of taken from a
 * library because requests need exactly this subset, and strictness is the point.
 */
import { type Bytes, utf8, utf8ToString } from "../../common/bytes.ts";
import { S3Error } from "./errors.ts";

export const MAX_XML_DEPTH = 16;
export const MAX_XML_ELEMENTS = 100_000;
export const S3_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/";
const XSI_NAMESPACE = "http://www.w3.org/2001/XMLSchema-instance";

/** A parsed element. */
export interface XmlElement {
  /** Without prefix. */
  readonly name: string;
  /** All character data directly inside, joined. */
  readonly text: string;
  readonly children: readonly XmlElement[];
}

interface OpenElement {
  readonly name: string;
  readonly qualified: string;
  text: string;
  readonly children: XmlElement[];
}

/**
 * Parses a document.
 *
 * @throws S3Error MalformedXML.
 */
export function parseXml(bytes: Bytes): XmlElement {
  let text: string;
  try {
    text = utf8ToString(bytes);
  } catch (cause) {
    throw malformed("not UTF-8", cause);
  }
  return new Parser(text).document();
}

function malformed(why: string, cause?: unknown): S3Error {
  return new S3Error("MalformedXML", {
    message:
      `The XML you provided was not well-formed or did not validate against our published schema (${why}).`,
    cause,
  });
}

const NAME = /[A-Za-z_][A-Za-z0-9_.\-]*(?::[A-Za-z_][A-Za-z0-9_.\-]*)?/y;
const ATTRIBUTE = /\s+[A-Za-z_][A-Za-z0-9_.:\-]*\s*=\s*(?:"[^"<]*"|'[^'<]*')/y;
const BLANK = /\s*/y;

class Parser {
  readonly #text: string;
  #at = 0;
  #elements = 0;

  constructor(text: string) {
    this.#text = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  }

  document(): XmlElement {
    if (this.#text.startsWith("<?xml")) {
      const end = this.#text.indexOf("?>");
      if (end < 0 || end > 200) throw malformed("an endless declaration");
      this.#at = end + 2;
    }
    this.#blank();
    const root = this.#tree();
    this.#blank();
    if (this.#at !== this.#text.length) throw malformed("content after the root element");
    return root;
  }

  /** White space and comments. */
  #blank(): void {
    while (true) {
      this.#match(BLANK);
      if (!this.#text.startsWith("<!--", this.#at)) return;
      this.#comment();
    }
  }

  #comment(): void {
    const end = this.#text.indexOf("-->", this.#at + 4);
    if (end < 0) throw malformed("an endless comment");
    this.#at = end + 3;
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const match = pattern.exec(this.#text);
    if (match === null) return undefined;
    this.#at += match[0].length;
    return match[0];
  }

  #tree(): XmlElement {
    const stack: OpenElement[] = [];
    while (true) {
      const top = stack.at(-1);
      if (top !== undefined) this.#characters(top);
      if (this.#text[this.#at] !== "<") throw malformed("an element is missing");
      if (top !== undefined && this.#text.startsWith("</", this.#at)) {
        this.#close(top);
        stack.pop();
        const parent = stack.at(-1);
        if (parent === undefined) return top;
        parent.children.push(top);
        continue;
      }
      const opened = this.#open();
      if (!opened.empty) {
        if (stack.length >= MAX_XML_DEPTH) throw malformed("elements too deep");
        stack.push(opened.element);
      } else if (top === undefined) return opened.element;
      else top.children.push(opened.element);
    }
  }

  #open(): { element: OpenElement; empty: boolean } {
    this.#at++;
    const qualified = this.#match(NAME);
    if (qualified === undefined) throw malformed("a tag that is not allowed here");
    if (++this.#elements > MAX_XML_ELEMENTS) throw malformed("too many elements");
    while (this.#match(ATTRIBUTE) !== undefined) { /* attributes say nothing here */ }
    this.#match(BLANK);
    const element = {
      name: qualified.slice(qualified.indexOf(":") + 1),
      qualified,
      text: "",
      children: [],
    };
    if (this.#text.startsWith("/>", this.#at)) {
      this.#at += 2;
      return { element, empty: true };
    }
    if (this.#text[this.#at] !== ">") throw malformed("a tag that does not end");
    this.#at++;
    return { element, empty: false };
  }

  #close(top: OpenElement): void {
    this.#at += 2;
    if (this.#match(NAME) !== top.qualified) throw malformed("tags that do not match");
    this.#match(BLANK);
    if (this.#text[this.#at] !== ">") throw malformed("a tag that does not end");
    this.#at++;
  }

  /** Text, CDATA and comments up to the next tag. */
  #characters(into: OpenElement): void {
    while (true) {
      const next = this.#text.indexOf("<", this.#at);
      if (next < 0) throw malformed("an element does not end");
      if (next > this.#at) into.text += decodeText(this.#text.slice(this.#at, next));
      this.#at = next;
      if (this.#text.startsWith("<!--", next)) {
        this.#comment();
      } else if (this.#text.startsWith("<![CDATA[", next)) {
        const end = this.#text.indexOf("]]>", next);
        if (end < 0) throw malformed("endless CDATA");
        into.text += this.#text.slice(next + 9, end);
        this.#at = end + 3;
      } else return;
    }
  }
}

const NAMED: Readonly<Record<string, string>> = {
  lt: "<",
  gt: ">",
  amp: "&",
  quot: '"',
  apos: "'",
};

function decodeText(raw: string): string {
  const text = raw.includes("\r") ? raw.replace(/\r\n?/g, "\n") : raw;
  if (!text.includes("&")) return text;
  return text.replace(/&([^;&]{0,12});?/g, (whole, name: string) => {
    if (!whole.endsWith(";")) throw malformed("an ampersand alone");
    const named = Object.hasOwn(NAMED, name) ? NAMED[name] : undefined;
    if (named !== undefined) return named;
    const reference = /^#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}))$/.exec(name);
    if (reference === null) throw malformed("an unknown entity");
    const code = reference[1] === undefined
      ? Number(reference[2])
      : Number.parseInt(reference[1], 16);
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) {
      throw malformed("a character reference that is none");
    }
    return String.fromCodePoint(code);
  });
}

/** First child of that name. */
export function child(element: XmlElement, name: string): XmlElement | undefined {
  return element.children.find((one) => one.name === name);
}

/** Text of the first child of that name. */
export function childText(element: XmlElement, name: string): string | undefined {
  return child(element, name)?.text;
}

/** All children of that name. */
export function childrenOf(element: XmlElement, name: string): readonly XmlElement[] {
  return element.children.filter((one) => one.name === name);
}

// deno-lint-ignore no-control-regex
const SPECIAL = /[&<>"\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]/;
// deno-lint-ignore no-control-regex
const SPECIALS = /[&<>"\x00-\x08\x0b-\x1f\x7f\ufffe\uffff]/g;

/** Escapes text; control characters become character references, as S3 answers them. */
export function escapeXml(text: string): string {
  if (!SPECIAL.test(text)) return text;
  return text.replace(SPECIALS, (c) => {
    switch (c) {
      case "&":
        return "&amp;";
      case "<":
        return "&lt;";
      case ">":
        return "&gt;";
      case '"':
        return "&quot;";
      default:
        return `&#x${c.charCodeAt(0).toString(16)};`;
    }
  });
}

/** An element with text. */
export function leaf(name: string, text: string | number | boolean): string {
  return typeof text === "string"
    ? `<${name}>${escapeXml(text)}</${name}>`
    : `<${name}>${text}</${name}>`;
}

/** An element with text, or nothing where there is none. */
export function optionalLeaf(name: string, text: string | number | boolean | undefined): string {
  return text === undefined ? "" : leaf(name, text);
}

/** An element with ready-made content. */
export function node(name: string, ...content: readonly string[]): string {
  return `<${name}>${content.join("")}</${name}>`;
}

/** A whole document in S3's namespace. */
export function xmlDocument(root: string, ...content: readonly string[]): Bytes {
  return utf8(
    `<?xml version="1.0" encoding="UTF-8"?>\n<${root} xmlns="${S3_NAMESPACE}">${
      content.join("")
    }</${root}>`,
  );
}

/** The Grantee of an ACL, which alone needs an attribute. */
export function canonicalUserGrantee(id: string): string {
  return `<Grantee xmlns:xsi="${XSI_NAMESPACE}" xsi:type="CanonicalUser">${leaf("ID", id)}${
    leaf("DisplayName", id)
  }</Grantee>`;
}

/** The error document. It has no namespace. */
export function xmlError(fields: Readonly<Record<string, string>>): Bytes {
  let text = `<?xml version="1.0" encoding="UTF-8"?>\n<Error>`;
  for (const [name, value] of Object.entries(fields)) text += leaf(name, value);
  return utf8(text + "</Error>");
}
