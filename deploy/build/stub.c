/*
 * The stub inside the ELF: turns the unmodified deno binary into `kiseki`.
 *
 * deploy/build/elf_image.ts appends this code and the payload to deno's bytes, makes deno's
 * PT_NOTE header a PT_LOAD over both, and moves the entry point here. So the kernel and ld.so
 * set deno up as always, and then this code runs first, twice:
 *
 *   1st: the environment lacks KISEKI_STAGE=<own pid>. The environment is completed (what Deno
 *        reads before any of our code could set it) and the same file is executed again with the
 *        same arguments. exec keeps the pid, so signals and exit codes need no forwarding.
 *   2nd: KISEKI_STAGE is removed from the environment, so that no child inherits it. The payload
 *        is hashed and compared. Every packaged file goes into a sealed, close-on-exec memfd named
 *        kiseki:<name>. Deno's own entry point is called with a longer argument list, built on
 *        the stack; /proc/PID/cmdline keeps what the user typed, the process is named kiseki.
 *
 * Invariants: no libc, no data that needs relocation, no writable statics (the segment is read and
 * execute); nothing is written to any file system; every failure prints one line and exits 126.
 *
 * Payload (little endian; written by deploy/build/payload.ts):
 *   0  magic "KISEKIPK"   8 u64 total size, header included   16 zero
 *   24 hash of bytes 64..total: SHA-256 over the SHA-256 of their 8 equal stripes
 *   64 u32 version = 1   68 u32 count   72 zero   128 entries, then the files
 *   (total - 64) is a multiple of 512
 *   entry (128 bytes): u64 size, u64 offset from the payload's start, name, NUL-padded to 112
 */
typedef unsigned long u64;
typedef unsigned int u32;
typedef unsigned char u8;

#define SYS_WRITE 1
#define SYS_OPEN 2
#define SYS_FSTAT 5
#define SYS_CLOSE 3
#define SYS_MADVISE 28
#define SYS_GETPID 39
#define SYS_EXECVE 59
#define SYS_EXIT_GROUP 231
#define SYS_FCNTL 72
#define SYS_PRCTL 157
#define SYS_MEMFD_CREATE 319

#define EINTR 4
#define EINVAL 22
#define ENOENT 2
#define ENOSYS 38
#define MFD_CLOEXEC 1
#define MFD_ALLOW_SEALING 2
#define MFD_NOEXEC_SEAL 8
#define F_ADD_SEALS 1033
#define SEAL_ALL 15 /* SEAL, SHRINK, GROW, WRITE */
#define MAX_FILES 256
#define LANES 8

/*
 * Entry. rsp -> argc. rdx is ld.so's finaliser, to be kept for the real entry point.
 * stub_main returns the stack pointer that deno shall start with.
 */
__asm__(
    ".section .text.start,\"ax\"\n"
    ".globl _start\n"
    "_start:\n"
    "  mov %rsp, %rdi\n"
    "  lea _start(%rip), %rsi\n"
    "  push %rdx\n"
    "  mov %rsp, %rbx\n"
    "  and $-16, %rsp\n"
    "  call stub_main\n"
    "  mov (%rbx), %rdx\n"
    "  mov %rax, %rsp\n"
    "  lea _start(%rip), %rcx\n"
    "  add entry_delta(%rip), %rcx\n"
    "  xor %ebp, %ebp\n"
    "  jmp *%rcx\n"
    ".balign 16\n"
    /* Patched by elf_image.ts, found by these values. */
    ".globl entry_delta\nentry_delta: .quad 0x1122334455667788\n"
    ".globl payload_offset\npayload_offset: .quad 0x2233445566778899\n"
    ".globl segment_address\nsegment_address: .quad 0x33445566778899aa\n"
    ".previous\n");
extern const u64 entry_delta __attribute__((visibility("hidden")));
extern const u64 payload_offset __attribute__((visibility("hidden")));
extern const u64 segment_address __attribute__((visibility("hidden")));

struct header {
  char magic[8];
  u64 total;
  u64 zero;
  u8 hash[32];
  u64 zero_too;
  /* From here on everything is hashed. */
  u32 version;
  u32 count;
  u8 reserved[56];
};
#define HASHED_FROM 64

struct entry {
  u64 size;
  u64 offset;
  char name[112];
};

struct program_header {
  u32 type, flags;
  u64 offset, address, physical, file_size, memory_size, align;
};

static long call3(long number, long a, long b, long c) {
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c)
                   : "rcx", "r11", "memory");
  return result;
}

static long call5(long number, long a, long b, long c, long d, long e) {
  long result;
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                   : "rcx", "r11", "memory");
  return result;
}

/* gcc may ask for these two by name even in freestanding code. */
void *memcpy(void *to, const void *from, u64 n) {
  void *result = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
  return result;
}

void *memset(void *to, int value, u64 n) {
  void *result = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
  return result;
}

static u64 length(const char *text) {
  u64 n = 0;
  while (text[n]) n++;
  return n;
}

static int starts_with(const char *text, const char *start) {
  while (*start)
    if (*text++ != *start++) return 0;
  return 1;
}

static int equal(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static char *append(char *to, const char *text) {
  while (*text) *to++ = *text++;
  return to;
}

static char *append_number(char *to, u64 value) {
  char digits[20];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n) *to++ = digits[--n];
  return to;
}

/* One line on stderr, exit 126. `number` below zero is an errno to show. */
static void __attribute__((noreturn, noinline)) fail(const char *message, long number) {
  char line[512];
  char *end = append(append(line, "kiseki: "), message);
  if (number < 0) end = append_number(append(end, " (errno "), (u64)-number), *end++ = ')';
  *end++ = '\n';
  call3(SYS_WRITE, 2, (long)line, end - line);
  call3(SYS_EXIT_GROUP, 126, 0, 0);
  for (;;) __asm__ volatile("hlt");
}

/*
 * ---- SHA-256 (FIPS 180-4) of eight stripes at once: some 4x the speed of one message on the many
 * servers that have no SHA instructions ----
 */

static const u32 K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

/* Eight 32-bit lanes: one message in each. Lowered to AVX2, or to pairs of SSE2 instructions. */
typedef u32 lanes __attribute__((vector_size(32)));
typedef u32 unaligned __attribute__((aligned(1), may_alias));
#define INLINE static inline __attribute__((always_inline))
#define ROTATE(x, n) ((x) >> (n) | (x) << (32 - (n)))

/* Hashes `blocks` blocks of 64 bytes in each lane; lane i starts at data + i * distance. */
INLINE void hash_blocks(lanes *state, const u8 *data, u64 distance, u64 blocks) {
  for (; blocks; blocks--, data += 64) {
    lanes w[16], a = state[0], b = state[1], c = state[2], d = state[3];
    lanes e = state[4], f = state[5], g = state[6], h = state[7];
#define WORD(lane) __builtin_bswap32(*(const unaligned *)(data + (lane)*distance + 4 * i))
    for (int i = 0; i < 16; i++)
      w[i] = (lanes){WORD(0), WORD(1), WORD(2), WORD(3), WORD(4), WORD(5), WORD(6), WORD(7)};
#pragma GCC unroll 64
    for (int i = 0; i < 64; i++) {
      if (i >= 16) {
        lanes x = w[(i + 1) & 15], y = w[(i + 14) & 15];
        w[i & 15] += (ROTATE(x, 7) ^ ROTATE(x, 18) ^ x >> 3) + w[(i + 9) & 15] +
                     (ROTATE(y, 17) ^ ROTATE(y, 19) ^ y >> 10);
      }
      lanes t1 = h + (ROTATE(e, 6) ^ ROTATE(e, 11) ^ ROTATE(e, 25)) + (g ^ (e & (f ^ g))) + K[i] +
                 w[i & 15];
      lanes t2 = (ROTATE(a, 2) ^ ROTATE(a, 13) ^ ROTATE(a, 22)) + ((a & b) | (c & (a | b)));
      h = g, g = f, f = e, e = d + t1, d = c, c = b, b = a, a = t1 + t2;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    state[4] += e, state[5] += f, state[6] += g, state[7] += h;
  }
}

/* SHA-256 of LANES messages of `size` bytes (a multiple of 64), `distance` apart. */
INLINE void hash_messages(u8 *digests, const u8 *data, u64 distance, u64 size) {
  static const u32 start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  lanes state[8];
  u8 last[64];
  for (int i = 0; i < 8; i++) state[i] = (lanes){} + start[i];
  hash_blocks(state, data, distance, size / 64);
  memset(last, 0, sizeof last);
  last[0] = 0x80;
  for (int i = 0; i < 8; i++) last[63 - i] = (u8)(size * 8 >> 8 * i);
  hash_blocks(state, last, 0, 1);
  for (int lane = 0; lane < LANES; lane++)
    for (int i = 0; i < 32; i++)
      digests[32 * lane + i] = (u8)(state[i / 4][lane] >> (24 - 8 * (i % 4)));
}

/* The payload's hash: SHA-256 over the SHA-256 of its LANES equal stripes. */
INLINE void hash_payload(u8 *digest, const u8 *data, u64 size) {
  u8 stripes[32 * LANES], copies[32 * LANES];
  hash_messages(stripes, data, size / LANES, size / LANES);
  hash_messages(copies, stripes, 0, sizeof stripes);
  memcpy(digest, copies, 32);
}

__attribute__((noinline, target("avx2"))) static void hash_payload_avx2(u8 *digest, const u8 *data,
                                                                        u64 size) {
  hash_payload(digest, data, size);
}

static __attribute__((noinline)) void hash_payload_sse2(u8 *digest, const u8 *data, u64 size) {
  hash_payload(digest, data, size);
}

static void cpuid(u32 leaf, u32 *b, u32 *c) {
  u32 a, d;
  __asm__ volatile("cpuid" : "=a"(a), "=b"(*b), "=c"(*c), "=d"(d) : "a"(leaf), "c"(0));
  if (leaf == 0) *b = a;
}

static int has_avx2(void) {
  u32 most, b, c, low, high;
  cpuid(0, &most, &c);
  if (most < 7) return 0;
  cpuid(1, &b, &c);
  if (!(c >> 27 & 1)) return 0; /* OSXSAVE: xgetbv may be used */
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  if ((low & 6) != 6) return 0; /* the kernel keeps the upper halves */
  cpuid(7, &b, &c);
  return b >> 5 & 1;
}

static int hash_matches(const u8 *data, u64 size, const u8 *wanted) {
  u8 digest[32], difference = 0;
  if (has_avx2()) hash_payload_avx2(digest, data, size);
  else hash_payload_sse2(digest, data, size);
  for (int i = 0; i < 32; i++) difference |= digest[i] ^ wanted[i];
  return difference == 0;
}

/* ---- stage 1 ---- */

/* True for variables that would change what is run: ours and Deno's own. */
static int is_replaced(const char *variable) {
  return starts_with(variable, "KISEKI_STAGE=") || starts_with(variable, "DENO_NO_UPDATE_CHECK=") ||
         starts_with(variable, "DENO_NO_PACKAGE_JSON=") || starts_with(variable, "DENO_DIR=") ||
         starts_with(variable, "NODE_OPTIONS=");
}

static void __attribute__((noreturn, noinline)) execute_again(char **argv, char **environment,
                                                              u64 count, char *stage) {
  char *wanted[count + 8];
  u64 n = 0;
  wanted[n++] = stage;
  wanted[n++] = (char *)"DENO_NO_UPDATE_CHECK=1";
  wanted[n++] = (char *)"DENO_NO_PACKAGE_JSON=1";
  /* A place that fails at once: an unwritable DENO_DIR is retried for 100 ms. */
  wanted[n++] = (char *)"DENO_DIR=/dev/null";
  for (u64 i = 0; i < count; i++)
    if (!is_replaced(environment[i])) wanted[n++] = environment[i];
  wanted[n] = 0;
  long result = call3(SYS_EXECVE, (long)"/proc/self/exe", (long)argv, (long)wanted);
  if (result == -ENOENT) fail("/proc is not mounted here; it is needed to start", 0);
  fail("cannot execute /proc/self/exe; /proc is needed to start", result);
}

/* ---- stage 2 ---- */

/*
 * The file must reach the end of our segment: beyond it a mapped page kills with SIGBUS.
 * Returns the bytes of the segment, which is what may be read from `base`.
 */
static u64 checked_segment_size(const u64 *auxiliary) {
  const struct program_header *headers = 0;
  u64 count = 0, end = 0, size = 0;
  for (; auxiliary[0]; auxiliary += 2) {
    if (auxiliary[0] == 3) headers = (const struct program_header *)auxiliary[1];
    if (auxiliary[0] == 5) count = auxiliary[1];
  }
  for (u64 i = 0; headers && i < count; i++)
    if (headers[i].type == 1 && headers[i].address == segment_address)
      size = headers[i].file_size, end = headers[i].offset + size;
  u64 status[18]; /* struct stat: 144 bytes, st_size at 48 */
  long file = call3(SYS_OPEN, (long)"/proc/self/exe", 02000000, 0);
  if (file < 0) fail("cannot open /proc/self/exe; /proc is needed to start", file);
  long result = call3(SYS_FSTAT, file, (long)status, 0);
  if (result < 0) fail("cannot read the size of /proc/self/exe", result);
  call3(SYS_CLOSE, file, 0, 0);
  if (!end || status[6] < end)
    fail("this file is cut off; copy it again (kiseki's checksum is in SHA256SUMS)", 0);
  return size;
}

static long make_memfd(const struct entry *file, const u8 *data) {
  char name[128];
  *append(append(name, "kiseki:"), file->name) = 0;
  long fd = call3(SYS_MEMFD_CREATE, (long)name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL,
                  0);
  /* Linux before 6.3 does not know MFD_NOEXEC_SEAL. */
  if (fd == -EINVAL)
    fd = call3(SYS_MEMFD_CREATE, (long)name, MFD_CLOEXEC | MFD_ALLOW_SEALING, 0);
  if (fd == -ENOSYS) fail("this kernel has no memfd_create; Linux 3.17 or newer is needed", 0);
  if (fd < 0) fail("memfd_create failed", fd);
  for (u64 done = 0; done < file->size;) {
    long written = call3(SYS_WRITE, fd, (long)(data + done), (long)(file->size - done));
    if (written == -EINTR) continue;
    if (written <= 0) fail("cannot fill a memfd; is there free memory?", written);
    done += (u64)written;
  }
  long sealed = call3(SYS_FCNTL, fd, F_ADD_SEALS, SEAL_ALL);
  if (sealed < 0) fail("cannot seal a memfd", sealed);
  return fd;
}

/* Makes all memfds. Returns the one of main.js. */
static long unpack(const u8 *payload) {
  const struct header *header = (const struct header *)payload;
  const struct entry *entries = (const struct entry *)(payload + sizeof *header);
  long main_fd = -1;
  for (u32 i = 0; i < header->count; i++) {
    long fd = make_memfd(&entries[i], payload + entries[i].offset);
    if (equal(entries[i].name, "main.js")) main_fd = fd;
  }
  if (main_fd < 0) fail("the payload holds no main.js: this build is broken", 0);
  return main_fd;
}

static void verify(const u8 *payload, u64 room) {
  const struct header *header = (const struct header *)payload;
  const char *magic = "KISEKIPK";
  for (int i = 0; i < 8; i++)
    if (header->magic[i] != magic[i]) fail("the payload is damaged (no magic); copy the file again", 0);
  if (header->total < sizeof *header || header->total > room ||
      (header->total - HASHED_FROM) % (64 * LANES))
    fail("the payload is damaged (size); copy the file again", 0);
  if (!hash_matches(payload + HASHED_FROM, header->total - HASHED_FROM, header->hash))
    fail("the payload is damaged (SHA-256 differs); copy the file again", 0);
  if (header->version != 1 || header->count > MAX_FILES)
    fail("the payload was made for another stub: this build is broken", 0);
}

static const char FLAGS[] =
    "run\0-A\0--unstable-net\0--no-config\0--no-lock\0--cached-only\0--no-npm\0--no-remote\0"
    "--no-prompt\0--no-code-cache\0--quiet\0--ext=js\0";

u64 *stub_main(u64 *stack, const u8 *base) {
  u64 argc = stack[0];
  char **argv = (char **)(stack + 1), **environment = argv + argc + 1;
  u64 count = 0;
  while (environment[count]) count++;
  const u64 *auxiliary = (const u64 *)(environment + count + 1);

  char stage[40];
  *append_number(append(stage, "KISEKI_STAGE="), (u64)call3(SYS_GETPID, 0, 0, 0)) = 0;
  u64 kept = 0;
  for (u64 i = 0; i < count; i++)
    if (!equal(environment[i], stage)) environment[kept++] = environment[i];
  if (kept == count) execute_again(argv, environment, count, stage);
  environment[kept] = 0;

  u64 size = checked_segment_size(auxiliary);
  const u8 *payload = base + payload_offset;
  verify(payload, size - payload_offset);
  long main_fd = unpack(payload);
  const struct header *header = (const struct header *)payload;
  /* The pages are in the page cache; they need not count as ours. */
  u64 first = ((u64)payload + 4095) & ~4095UL;
  call3(SYS_MADVISE, (long)first, (long)(((u64)payload + header->total - first) & ~4095UL), 4);
  call5(SYS_PRCTL, 15, (long)"kiseki", 0, 0, 0);

  /* The new start of the stack: main's path, then argc, argv, environment, auxiliary vector. */
  u64 flags = 0, pairs = 0;
  for (u64 i = 0; i + 1 < sizeof FLAGS; i += length(FLAGS + i) + 1) flags++;
  while (auxiliary[2 * pairs]) pairs++;
  pairs++;
  u64 words = 1 + (argc ? argc : 1) + flags + 1 + 1 + kept + 1 + 2 * pairs;
  /* Well below this function's own frame, which must stay whole until it returns. */
  char *path = (char *)__builtin_frame_address(0) - 16384;
  *append_number(append(path, "/proc/self/fd/"), (u64)main_fd) = 0;
  u64 *top = (u64 *)(((u64)((u64 *)path - words)) & ~15UL), *to = top;
  *to++ = (argc ? argc : 1) + flags + 1;
  *to++ = argc ? (u64)argv[0] : (u64) "kiseki";
  for (u64 i = 0; i + 1 < sizeof FLAGS; i += length(FLAGS + i) + 1) *to++ = (u64)(FLAGS + i);
  *to++ = (u64)path;
  for (u64 i = 1; i < argc; i++) *to++ = (u64)argv[i];
  *to++ = 0;
  for (u64 i = 0; i < kept; i++) *to++ = (u64)environment[i];
  *to++ = 0;
  for (u64 i = 0; i < 2 * pairs; i++) *to++ = auxiliary[i];
  return top;
}
