/*
 * Included before every C file of AWS-LC: binds the few functions whose symbol version moved in
 * glibc 2.33 and 2.34 to the versions that glibc 2.2.5 to today's all have, so that a library built
 * on a new machine loads on an old one (glibc 2.27 is what deno itself needs). x86-64 only.
 */
#if defined(__x86_64__) && defined(__linux__) && !defined(__ASSEMBLER__) && !defined(__cplusplus)
/* As AWS-LC's own files define it, before the first header. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <sys/stat.h>
#define KISEKI_OLD(name) __asm__(".symver " #name "," #name "@GLIBC_2.2.5")
KISEKI_OLD(pthread_getspecific);
KISEKI_OLD(pthread_key_create);
KISEKI_OLD(pthread_key_delete);
KISEKI_OLD(pthread_once);
KISEKI_OLD(pthread_rwlock_destroy);
KISEKI_OLD(pthread_rwlock_init);
KISEKI_OLD(pthread_rwlock_rdlock);
KISEKI_OLD(pthread_rwlock_unlock);
KISEKI_OLD(pthread_rwlock_wrlock);
KISEKI_OLD(pthread_setspecific);
/* stat() was an inline wrapper of __xstat until 2.33; 1 is the structure's version on x86-64. */
extern int __xstat(int version, const char *path, struct stat *status);
KISEKI_OLD(__xstat);
#define stat(path, status) __xstat(1, path, status)
#endif
