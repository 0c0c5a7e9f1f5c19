/* Let the n-th call of the C library on files of one folder fail, as the real system may.

   Loaded with LD_PRELOAD; a process sets `fault_at` and the others through ctypes. In contrast to
   faulty_system.py it sees the calls that libraries written in C make, and EINTR comes below
   Python's own repetition of interrupted calls.

   gcc -shared -fPIC -O1 -o faulty_libc.so faulty_libc.c -ldl */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

long fault_at = -1;   /* number of the call that fails, from 0; -1 for none */
int fault_error = 0;  /* its errno; 0: a short read or write; -1: SIGKILL after the call */
char fault_folder[4096];
long fault_calls = 0;
#define CALLS 65536
char fault_log[CALLS];  /* a letter for each call, see libc_faults.py */

#define FILES 4096
static char ours[FILES];

static int is_ours(const char *path) {
    size_t size = strlen(fault_folder);
    return size && path && strncmp(path, fault_folder, size) == 0;
}

static int of_file(int file) { return file >= 0 && file < FILES && ours[file]; }

static void note(int file) { if (file >= 0 && file < FILES) ours[file] = 1; }

/* Count a call; return whether it is the one that fails. */
static int now(char kind) {
    if (fault_calls < CALLS) fault_log[fault_calls] = kind;
    return fault_calls++ == fault_at;
}

#define REAL(type, name) static type (*real)(); if (!real) real = dlsym(RTLD_NEXT, name)
#define CALL(type, name, kind, counted, ...)                                 \
    REAL(type, name);                                                        \
    int fails = (counted) && now(kind);                                      \
    if (fails && fault_error > 0) { errno = fault_error; return (type)-1; }  \
    type found = (type)real(__VA_ARGS__);                                    \
    if (fails && fault_error < 0) kill(getpid(), SIGKILL);                   \
    return found

int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    REAL(int, "open64");
    int counted = is_ours(path), fails = counted && now('o');
    if (fails && fault_error > 0) { errno = fault_error; return -1; }
    int file = real(path, flags, mode);
    if (counted) note(file);
    if (fails && fault_error < 0) kill(getpid(), SIGKILL);
    return file;
}

int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    return open64(path, flags, mode);
}

int openat64(int at, const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    REAL(int, "openat64");
    int counted = is_ours(path) || of_file(at), fails = counted && now('o');
    if (fails && fault_error > 0) { errno = fault_error; return -1; }
    int file = real(at, path, flags, mode);
    if (counted) note(file);
    if (fails && fault_error < 0) kill(getpid(), SIGKILL);
    return file;
}

int openat(int at, const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); int mode = va_arg(rest, int); va_end(rest);
    return openat64(at, path, flags, mode);
}

ssize_t read(int file, void *data, size_t size) {
    if (of_file(file) && fault_calls == fault_at && fault_error == 0 && size > 1) size /= 2;
    CALL(ssize_t, "read", 'r', of_file(file), file, data, size);
}

ssize_t write(int file, const void *data, size_t size) {
    if (of_file(file) && fault_calls == fault_at && fault_error == 0 && size > 1) size /= 2;
    CALL(ssize_t, "write", 'w', of_file(file), file, data, size);
}

ssize_t preadv64(int file, const struct iovec *parts, int count, off64_t offset) {
    struct iovec first = parts[0];
    int shortened = of_file(file) && fault_calls == fault_at && fault_error == 0 && first.iov_len > 1;
    if (shortened) { first.iov_len /= 2; parts = &first; count = 1; }
    CALL(ssize_t, "preadv64", 'r', of_file(file), file, parts, count, offset);
}

ssize_t preadv64v2(int file, const struct iovec *parts, int count, off64_t offset, int flags) {
    struct iovec first = parts[0];
    int shortened = of_file(file) && fault_calls == fault_at && fault_error == 0 && first.iov_len > 1;
    if (shortened) { first.iov_len /= 2; parts = &first; count = 1; }
    CALL(ssize_t, "preadv64v2", 'r', of_file(file), file, parts, count, offset, flags);
}

int close(int file) {
    int counted = of_file(file);
    if (counted) ours[file] = 0;
    REAL(int, "close");
    int fails = counted && now('c');
    int found = real(file);  /* the file is closed, also if it fails */
    if (fails && fault_error < 0) kill(getpid(), SIGKILL);
    if (fails && fault_error > 0) { errno = fault_error; return -1; }
    return found;
}

int fsync(int file) { CALL(int, "fsync", 's', of_file(file), file); }
int ftruncate64(int file, off64_t size) { CALL(int, "ftruncate64", 't', of_file(file), file, size); }
int rename(const char *from, const char *to) { CALL(int, "rename", 'n', is_ours(from), from, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
    CALL(int, "renameat2", 'n', is_ours(from), a, from, b, to, flags);
}
int link(const char *from, const char *to) { CALL(int, "link", 'l', is_ours(from), from, to); }
int linkat(int a, const char *from, int b, const char *to, int flags) {
    CALL(int, "linkat", 'l', is_ours(from), a, from, b, to, flags);
}
int unlink(const char *path) { CALL(int, "unlink", 'u', is_ours(path), path); }
int unlinkat(int at, const char *path, int flags) {
    CALL(int, "unlinkat", 'u', is_ours(path) || of_file(at), at, path, flags);
}
int mkdir(const char *path, mode_t mode) { CALL(int, "mkdir", 'm', is_ours(path), path, mode); }
int rmdir(const char *path) { CALL(int, "rmdir", 'd', is_ours(path), path); }

void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset) {
    CALL(void *, "mmap64", 'p', of_file(file), at, size, protection, flags, file, offset);
}
