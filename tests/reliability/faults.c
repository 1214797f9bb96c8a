/* Counts a process's file-system calls below one folder, and fails or kills the process at a chosen one.

   Loaded with LD_PRELOAD; does nothing until `fault_arm` is called (from Python: ctypes.CDLL(None).fault_arm). Calls made
   by Python, Rust (safetensors, tokenizers) and C++ (torch.save) all pass through here. Linux and glibc. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum action { COUNT = 0, KILL = 1, TEAR = 2, FAIL = 3, FAIL_FROM = 4 };
/* FULL: a full disk; BROKEN: a failing device; READ_ONLY: a file system remounted read-only. */
enum fault { FULL = ENOSPC, BROKEN = EIO, READ_ONLY = EROFS };

static char folder[PATH_MAX];
static size_t folder_length;
static int armed, action, fault, log_fd = -1;
static long at;
static atomic_long calls;

/* Begin to count. `number` (from 1) is the call at which `what` happens, with the error `error`; `log` is a descriptor. */
void fault_arm(const char *below, long number, int what, int error, int log) {
    strncpy(folder, below, sizeof folder - 1);
    folder_length = strlen(folder);
    at = number;
    action = what;
    fault = error;
    log_fd = log;
    calls = 0;
    armed = 1;
}

static int below(const char *path) {
    return strncmp(path, folder, folder_length) == 0 && (path[folder_length] == '/' || path[folder_length] == 0);
}

/* The absolute path of `name` relative to the folder of descriptor `dir`; 0 if it does not lie below `folder`. */
static int resolve(int dir, const char *name, char *out) {
    if (!armed || name == NULL) return 0;
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return below(out);
    }
    char place[PATH_MAX] = "", link[64];
    if (dir == AT_FDCWD) {
        if (getcwd(place, sizeof place) == NULL) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        if (readlink(link, place, sizeof place - 1) < 0) return 0;
    }
    return snprintf(out, PATH_MAX, "%s/%s", place, name) < PATH_MAX && below(out);
}

static int resolve_fd(int fd, char *out) {
    if (!armed) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, out, PATH_MAX - 1);
    if (length < 0) return 0;
    out[length] = 0;
    return below(out);
}

static void die(void) {
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;) pause();
}

/* Which calls an error can come from: `w` open for writing, `r` open for reading, `d` data or sync, `n` a new name,
   `x` a name removed. */
static int can_fail(char kind) {
    if (fault == FULL) return strchr("wdn", kind) != NULL;
    if (fault == READ_ONLY) return strchr("wnx", kind) != NULL;
    return 1;
}

/* Count one call; returns 1 if it is to fail. A torn write (`TEAR`) is left to the caller, who is told by `torn`. */
static int step(const char *name, char kind, const char *path, size_t bytes, int *torn) {
    if (kind == 'r' && fault != BROKEN) return 0; /* reading is no event for a kill or a full disk */
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (log_fd >= 0) dprintf(log_fd, "%ld\t%s\t%c\t%zu\t%s\n", number, name, kind, bytes, path + folder_length);
    if (action == KILL && number == at) die();
    if (torn != NULL && action == TEAR && number == at) *torn = 1;
    if (((action == FAIL && number == at) || (action == FAIL_FROM && number >= at)) && can_fail(kind)) {
        errno = fault;
        return 1;
    }
    return 0;
}

#define REAL(result, name, ...)                                                        \
    static result (*real)(__VA_ARGS__);                                                \
    if (real == NULL) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || flags & (O_CREAT | O_TRUNC); }

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        REAL(int, name, const char *, int, ...);                                       \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;      \
        va_end(rest);                                                                  \
        char full[PATH_MAX];                                                           \
        if (resolve(AT_FDCWD, path, full) && step("open", writes(flags) ? 'w' : 'r', full, 0, NULL)) return -1; \
        return real(path, flags, mode);                                                \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                   \
    int name(int dir, const char *path, int flags, ...) {                              \
        REAL(int, name, int, const char *, int, ...);                                  \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;      \
        va_end(rest);                                                                  \
        char full[PATH_MAX];                                                           \
        if (resolve(dir, path, full) && step("open", writes(flags) ? 'w' : 'r', full, 0, NULL)) return -1; \
        return real(dir, path, flags, mode);                                           \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                    \
    FILE *name(const char *path, const char *mode) {                                   \
        REAL(FILE *, name, const char *, const char *);                                \
        char full[PATH_MAX];                                                           \
        if (resolve(AT_FDCWD, path, full) && step("open", mode[0] == 'r' && !strchr(mode, '+') ? 'r' : 'w', full, 0, NULL)) \
            return NULL;                                                               \
        return real(path, mode);                                                       \
    }
FOPEN(fopen)
FOPEN(fopen64)

ssize_t write(int fd, const void *data, size_t count) {
    REAL(ssize_t, write, int, const void *, size_t);
    char full[PATH_MAX];
    int torn = 0;
    if (resolve_fd(fd, full) && step("write", 'd', full, count, &torn)) return -1;
    if (torn) {
        real(fd, data, count / 2);
        die();
    }
    return real(fd, data, count);
}

#define PWRITE(name, offset_type)                                                      \
    ssize_t name(int fd, const void *data, size_t count, offset_type offset) {         \
        REAL(ssize_t, name, int, const void *, size_t, offset_type);                   \
        char full[PATH_MAX];                                                           \
        int torn = 0;                                                                  \
        if (resolve_fd(fd, full) && step("write", 'd', full, count, &torn)) return -1; \
        if (torn) {                                                                    \
            real(fd, data, count / 2, offset);                                         \
            die();                                                                     \
        }                                                                              \
        return real(fd, data, count, offset);                                          \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    char full[PATH_MAX];
    int torn = 0;
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    if (resolve_fd(fd, full) && step("write", 'd', full, bytes, &torn)) return -1;
    if (torn) {
        real(fd, parts, (count + 1) / 2);
        die();
    }
    return real(fd, parts, count);
}

#define ON_FD(name)                                                                    \
    int name(int fd) {                                                                 \
        REAL(int, name, int);                                                          \
        char full[PATH_MAX];                                                           \
        if (resolve_fd(fd, full) && step("sync", 'd', full, 0, NULL)) return -1;       \
        return real(fd);                                                               \
    }
ON_FD(fsync)
ON_FD(fdatasync)

#define TRUNCATE(name, size_type)                                                      \
    int name(int fd, size_type size) {                                                 \
        REAL(int, name, int, size_type);                                               \
        char full[PATH_MAX];                                                           \
        if (resolve_fd(fd, full) && step("truncate", 'd', full, size, NULL)) return -1; \
        return real(fd, size);                                                         \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ON_PATH(name, label, kind)                                                     \
    int name(const char *path) {                                                       \
        REAL(int, name, const char *);                                                 \
        char full[PATH_MAX];                                                           \
        if (resolve(AT_FDCWD, path, full) && step(label, kind, full, 0, NULL)) return -1; \
        return real(path);                                                             \
    }
ON_PATH(unlink, "unlink", 'x')
ON_PATH(rmdir, "rmdir", 'x')

int unlinkat(int dir, const char *path, int flags) {
    REAL(int, unlinkat, int, const char *, int);
    char full[PATH_MAX];
    if (resolve(dir, path, full) && step(flags & AT_REMOVEDIR ? "rmdir" : "unlink", 'x', full, 0, NULL)) return -1;
    return real(dir, path, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, mkdir, const char *, mode_t);
    char full[PATH_MAX];
    if (resolve(AT_FDCWD, path, full) && step("mkdir", 'n', full, 0, NULL)) return -1;
    return real(path, mode);
}

int mkdirat(int dir, const char *path, mode_t mode) {
    REAL(int, mkdirat, int, const char *, mode_t);
    char full[PATH_MAX];
    if (resolve(dir, path, full) && step("mkdir", 'n', full, 0, NULL)) return -1;
    return real(dir, path, mode);
}

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    char full[PATH_MAX];
    if (resolve(AT_FDCWD, to, full) && step("rename", 'n', full, 0, NULL)) return -1;
    return real(from, to);
}

int renameat(int dir, const char *from, int other, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    char full[PATH_MAX];
    if (resolve(other, to, full) && step("rename", 'n', full, 0, NULL)) return -1;
    return real(dir, from, other, to);
}

int link(const char *from, const char *to) {
    REAL(int, link, const char *, const char *);
    char full[PATH_MAX];
    if (resolve(AT_FDCWD, to, full) && step("link", 'n', full, 0, NULL)) return -1;
    return real(from, to);
}

int symlink(const char *from, const char *to) {
    REAL(int, symlink, const char *, const char *);
    char full[PATH_MAX];
    if (resolve(AT_FDCWD, to, full) && step("symlink", 'n', full, 0, NULL)) return -1;
    return real(from, to);
}
