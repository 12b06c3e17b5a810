/**
 * Decoder of `aws-chunked` bodies: signed, signed with trailer, unsigned with trailer.
 *
 *     chunk   = size-hex [";chunk-signature=" 64hex] CRLF data CRLF     (last one: size 0, no data)
 *     trailer = *( name ":" value CRLF ) [ "x-amz-trailer-signature:" 64hex CRLF ] CRLF
 *
 * Source: Amazon S3 API Reference, "Signature Calculations for the Authorization Header:
 * Transferring Payload in Multiple Chunks" and "Including Trailing Headers". Data is handed on as
 * views of the input before the chunk's signature is known: the caller must not publish anything
 * before `finish` has returned. Invariants: memory is bounded (one line of at most
 * {@link MAX_LINE_BYTES}, {@link MAX_TRAILERS} trailers); nothing may follow the end; the decoded
 * length is exactly what was announced.
 */
import { type Bytes, concatBytes, toHex, utf8 } from "../../common/bytes.ts";
import type { CryptoProvider, Hash } from "../../crypto/provider.ts";
import { S3Error } from "./errors.ts";
import { EMPTY_SHA256, sameSecret, sign } from "./sigv4.ts";

export const MAX_LINE_BYTES = 4096;
export const MAX_TRAILERS = 16;

/** The chain that signs chunks. */
export interface ChunkSigner {
  readonly crypto: CryptoProvider;
  readonly signingKey: Bytes;
  readonly amzDate: string;
  readonly scope: string;
  /** Of the request itself. */
  readonly seedSignature: string;
}

export interface ChunkedOptions {
  /** undefined: chunks are unsigned. */
  readonly signer?: ChunkSigner;
  readonly trailer: boolean;
  readonly decodedBytes: number;
}

type State = "size" | "data" | "data-end" | "trailer" | "end" | "done";

const CR = 13;
const LF = 10;

export class AwsChunkedDecoder {
  readonly #options: ChunkedOptions;
  #state: State = "size";
  #line: Bytes[] = [];
  #lineBytes = 0;
  #chunkLeft = 0;
  #decoded = 0;
  #previous: string;
  #claimed = "";
  #hash: Hash | undefined;
  #endMatched = 0;
  readonly #trailers: [string, string][] = [];

  constructor(options: ChunkedOptions) {
    this.#options = options;
    this.#previous = options.signer?.seedSignature ?? "";
  }

  /** Trailing headers by lower-case name; complete after `finish`. */
  get trailers(): ReadonlyMap<string, string> {
    return new Map(this.#trailers);
  }

  /**
   * Takes the next bytes of the body.
   *
   * @returns views of decoded data inside `bytes`, in order.
   * @throws S3Error on broken framing or a wrong signature.
   */
  feed(bytes: Bytes): Bytes[] {
    const out: Bytes[] = [];
    let at = 0;
    while (at < bytes.length) {
      switch (this.#state) {
        case "data": {
          const end = Math.min(bytes.length, at + this.#chunkLeft);
          const view = bytes.subarray(at, end);
          this.#hash?.update(view);
          out.push(view);
          this.#chunkLeft -= view.length;
          at = end;
          if (this.#chunkLeft === 0) this.#state = "data-end";
          break;
        }
        case "data-end":
          this.#expectLineEnd(bytes[at++] as number, () => {
            this.#checkChunk();
            this.#state = "size";
          });
          break;
        case "end":
          this.#expectLineEnd(bytes[at++] as number, () => {
            this.#state = "done";
          });
          break;
        case "size":
        case "trailer": {
          const lineEnd = bytes.indexOf(LF, at);
          const end = lineEnd < 0 ? bytes.length : lineEnd + 1;
          this.#take(bytes.subarray(at, end));
          at = end;
          if (lineEnd >= 0) this.#lineDone();
          break;
        }
        case "done":
          throw broken("bytes follow the last chunk");
      }
    }
    return out;
  }

  /**
   * The body is over.
   *
   * @throws S3Error IncompleteBody unless everything announced has come.
   */
  finish(): void {
    if (this.#state !== "done" || this.#decoded !== this.#options.decodedBytes) {
      this.release();
      throw new S3Error("IncompleteBody", {
        message: "The aws-chunked body ended before all announced bytes had come.",
      });
    }
  }

  /** Frees what is held. Harmless at any time. */
  release(): void {
    this.#hash?.release();
    this.#hash = undefined;
  }

  #take(piece: Bytes): void {
    this.#lineBytes += piece.length;
    if (this.#lineBytes > MAX_LINE_BYTES) throw broken("a line is too long");
    this.#line.push(piece.slice());
  }

  #lineDone(): void {
    const bytes = this.#line.length === 1 ? this.#line[0] as Bytes : concatBytes(...this.#line);
    this.#line = [];
    this.#lineBytes = 0;
    let text = "";
    // Trailers end with LF alone in AWS's own example of the canonical form: a CR is optional there.
    const withCr = bytes.length >= 2 && bytes[bytes.length - 2] === CR;
    const length = bytes.length - (withCr ? 2 : 1);
    for (let i = 0; i < length; i++) text += String.fromCharCode(bytes[i] as number);
    if (this.#state === "size") {
      if (!withCr) throw broken("a chunk header does not end in CRLF");
      this.#chunkHeader(text);
    } else this.#trailerLine(text);
  }

  #chunkHeader(text: string): void {
    const signer = this.#options.signer;
    const semicolon = text.indexOf(";");
    const sizeText = semicolon < 0 ? text : text.slice(0, semicolon);
    const extension = semicolon < 0 ? "" : text.slice(semicolon + 1);
    if (!/^[0-9a-fA-F]{1,12}$/.test(sizeText)) throw broken("a chunk size is not a hex number");
    if (signer !== undefined) {
      const match = /^chunk-signature=([0-9a-f]{64})$/.exec(extension);
      if (match === null) throw broken("a chunk has no chunk-signature");
      this.#claimed = match[1] ?? "";
    }
    const size = Number.parseInt(sizeText, 16);
    this.#decoded += size;
    if (this.#decoded > this.#options.decodedBytes) {
      throw broken("chunks hold more than x-amz-decoded-content-length");
    }
    if (signer !== undefined) this.#hash = signer.crypto.hash("sha256");
    if (size > 0) {
      this.#chunkLeft = size;
      this.#state = "data";
      return;
    }
    this.#checkChunk();
    this.#state = this.#options.trailer ? "trailer" : "end";
  }

  #checkChunk(): void {
    const signer = this.#options.signer;
    if (signer === undefined || this.#hash === undefined) return;
    const digest = toHex(this.#hash.digest());
    this.#hash = undefined;
    const text =
      `AWS4-HMAC-SHA256-PAYLOAD\n${signer.amzDate}\n${signer.scope}\n${this.#previous}\n${EMPTY_SHA256}\n${digest}`;
    this.#verify(signer, text, this.#claimed);
    this.#previous = this.#claimed;
  }

  #trailerLine(line: string): void {
    if (line === "") {
      if (this.#options.signer !== undefined) throw broken("the trailer has no signature");
      this.#state = "done";
      return;
    }
    const colon = line.indexOf(":");
    if (colon <= 0) throw broken("a trailing header has no name");
    const name = line.slice(0, colon).trim().toLowerCase();
    const value = line.slice(colon + 1).trim();
    if (name === "x-amz-trailer-signature") {
      const signer = this.#options.signer;
      if (signer === undefined) throw broken("a signed trailer in an unsigned body");
      const block = this.#trailers.map(([key, text]) => `${key}:${text}\n`).join("");
      const digest = toHex(signer.crypto.digest("sha256", utf8(block)));
      const text =
        `AWS4-HMAC-SHA256-TRAILER\n${signer.amzDate}\n${signer.scope}\n${this.#previous}\n${digest}`;
      this.#verify(signer, text, value);
      this.#state = "end";
      return;
    }
    if (this.#trailers.length >= MAX_TRAILERS) throw broken("too many trailing headers");
    this.#trailers.push([name, value]);
  }

  #verify(signer: ChunkSigner, text: string, claimed: string): void {
    const expected = sign(signer.crypto, signer.signingKey, text);
    if (!sameSecret(expected, claimed)) {
      throw new S3Error("SignatureDoesNotMatch");
    }
  }

  /** CRLF, possibly over two pieces. */
  #expectLineEnd(byte: number, then: () => void): void {
    if (byte !== (this.#endMatched === 0 ? CR : LF)) throw broken("CRLF is missing");
    this.#endMatched++;
    if (this.#endMatched < 2) return;
    this.#endMatched = 0;
    then();
  }
}

function broken(what: string): S3Error {
  return new S3Error("InvalidRequest", { message: `The aws-chunked body is malformed: ${what}.` });
}
