/* Loaded into the engine by the tests in `faults.rs`: lets the n-th call of a kind fail, or moves the clock.
 *
 * Only the engine's own calls below the study's directory count: not those of its trials, of their keeper, or on other
 * files. What the environment asks for:
 *   FAULT_DIR      the study's directory, absolute
 *   FAULT          KIND:N:ERRNO:LAST: calls N to LAST of that kind fail (0: none)
 *   FAULT_COUNTS   a file of KINDS 64-bit counters, mapped and counted up
 *   FAULT_FILE     of calls to read, only those on files whose path ends so count
 *   FAULT_TRACE    a file of lines: which directories were made, and what was synced, in order, each once it is done
 *   FAULT_FLOCK    an ERRNO that every flock answers
 *   FAULT_DIRSYNC  an ERRNO that every fsync of a directory answers
 *   FAULT_CLOCK    STEP_S:EVERY: each EVERY-th look at the wall clock moves it by STEP_S seconds, to and fro
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* SYNC_ATTEMPT only counts: syncs of what attempts left. */
enum { OPEN, WRITE, SYNC, MKDIR, RENAME, TRUNCATE, READ, SYNC_ATTEMPT, KINDS };

static pid_t engine;
static const char *dir, *only;
static long kind = -1, first, last, error, step_s, every;
static int trace_fd = -1, no_flock, no_dirsync;
static unsigned long own[KINDS], *counts = own, looks;

__attribute__((constructor)) static void set_up(void) {
    char exe[4096];
    ssize_t length = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (length < 0) return;
    exe[length] = 0;
    const char *name = strrchr(exe, '/');
    if (!name || strcmp(name, "/piton")) return;
    dir = getenv("FAULT_DIR");
    if (!dir) return;
    only = getenv("FAULT_FILE");
    const char *fault = getenv("FAULT");
    if (fault) sscanf(fault, "%ld:%ld:%ld:%ld", &kind, &first, &error, &last);
    const char *clock = getenv("FAULT_CLOCK");
    if (clock) sscanf(clock, "%ld:%ld", &step_s, &every);
    const char *file = getenv("FAULT_COUNTS");
    if (file) {
        int fd = open(file, O_RDWR | O_CREAT, 0644);
        if (fd < 0 || ftruncate(fd, sizeof own)) abort();
        void *map = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (map == MAP_FAILED) abort();
        counts = map;
        close(fd);
    }
    const char *no = getenv("FAULT_FLOCK");
    if (no) no_flock = atoi(no);
    no = getenv("FAULT_DIRSYNC");
    if (no) no_dirsync = atoi(no);
    const char *trace = getenv("FAULT_TRACE");
    if (trace) trace_fd = open(trace, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    engine = getpid();
}

/* Whether this call is to fail; sets errno then. */
static int fails(int what) {
    unsigned long n = __atomic_add_fetch(&counts[what], 1, __ATOMIC_SEQ_CST);
    if (what != kind || (long)n < first || (long)n > last) return 0;
    errno = (int)error;
    return 1;
}

static int ours(const char *path) {
    return engine && engine == getpid() && (path[0] != '/' || !strncmp(path, dir, strlen(dir)));
}

static int path_of(int fd, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int our_fd(int fd) {
    char path[4096];
    if (!engine || engine != getpid() || !path_of(fd, path)) return 0;
    /* What the tests let it print is no file of the study; a study file that cannot be read is another error. */
    return !strncmp(path, dir, strlen(dir)) && !strstr(path, "/engine.") && !strstr(path, "/study.toml");
}

static int to_read(int fd) {
    char path[4096];
    if (!our_fd(fd)) return 0;
    if (!only) return 1;
    size_t end = strlen(only);
    return path_of(fd, path) && strlen(path) >= end && !strcmp(path + strlen(path) - end, only);
}

#define NEXT(name) ({ static typeof(name) *next; if (!next) next = (typeof(name) *)dlsym(RTLD_NEXT, #name); next; })

static int for_writing(int flags) { return flags & (O_WRONLY | O_RDWR | O_CREAT); }

#define OPENS(name, ...)                                            \
    va_list more;                                                   \
    va_start(more, flags);                                          \
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                   \
    if (for_writing(flags) && ours(path) && fails(OPEN)) return -1; \
    return NEXT(name)(__VA_ARGS__)

int open(const char *path, int flags, ...) { OPENS(open, path, flags, mode); }
int open64(const char *path, int flags, ...) { OPENS(open64, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { OPENS(openat, at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { OPENS(openat64, at, path, flags, mode); }

/* A write that fails has written half of it first. */
ssize_t write(int fd, const void *bytes, size_t count) {
    if (our_fd(fd) && fails(WRITE)) {
        int saved = errno;
        if (NEXT(write)(fd, bytes, count / 2) < 0) return -1;
        errno = saved;
        return -1;
    }
    return NEXT(write)(fd, bytes, count);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    if (our_fd(fd) && fails(WRITE)) {
        int saved = errno;
        if (NEXT(pwrite64)(fd, bytes, count / 2, at) < 0) return -1;
        errno = saved;
        return -1;
    }
    return NEXT(pwrite64)(fd, bytes, count, at);
}

ssize_t read(int fd, void *bytes, size_t count) {
    if (to_read(fd) && fails(READ)) return -1;
    return NEXT(read)(fd, bytes, count);
}

ssize_t pread64(int fd, void *bytes, size_t count, off64_t at) {
    if (to_read(fd) && fails(READ)) return -1;
    return NEXT(pread64)(fd, bytes, count, at);
}

/* A line of the trace: whole, since it is appended in one write. */
static int traced(int result, const char *what, const char *path) {
    char line[4200];
    int saved = errno, length = snprintf(line, sizeof line, "%s %s\n", what, path);
    if (trace_fd >= 0 && !result && NEXT(write)(trace_fd, line, (size_t)length) < 0) abort();
    errno = saved;
    return result;
}

int flock(int fd, int how) {
    if (!no_flock || !our_fd(fd)) return NEXT(flock)(fd, how);
    errno = no_flock;
    return -1;
}

int fsync(int fd) {
    char path[4096];
    struct stat found;
    if (!our_fd(fd) || !path_of(fd, path)) return NEXT(fsync)(fd);
    if (no_dirsync && !fstat(fd, &found) && S_ISDIR(found.st_mode)) {
        errno = no_dirsync;
        return -1;
    }
    if (strstr(path, "/attempt_")) __atomic_add_fetch(&counts[SYNC_ATTEMPT], 1, __ATOMIC_SEQ_CST);
    return fails(SYNC) ? -1 : traced(NEXT(fsync)(fd), "sync", path);
}
int fdatasync(int fd) { return our_fd(fd) && fails(SYNC) ? -1 : NEXT(fdatasync)(fd); }
int ftruncate64(int fd, off64_t to) { return our_fd(fd) && fails(TRUNCATE) ? -1 : NEXT(ftruncate64)(fd, to); }
int mkdir(const char *path, mode_t mode) {
    if (!ours(path)) return NEXT(mkdir)(path, mode);
    return fails(MKDIR) ? -1 : traced(NEXT(mkdir)(path, mode), "mkdir", path);
}
int mkdirat(int at, const char *name, mode_t mode) {
    char path[4096];
    if (!our_fd(at) || !path_of(at, path)) return NEXT(mkdirat)(at, name, mode);
    size_t length = strlen(path);
    snprintf(path + length, sizeof path - length, "/%s", name);
    return fails(MKDIR) ? -1 : traced(NEXT(mkdirat)(at, name, mode), "mkdir", path);
}
int rename(const char *from, const char *to) { return ours(to) && fails(RENAME) ? -1 : NEXT(rename)(from, to); }

int clock_gettime(clockid_t which, struct timespec *now) {
    int result = NEXT(clock_gettime)(which, now);
    if (which == CLOCK_REALTIME && every && engine && engine == getpid()) {
        unsigned long look = __atomic_add_fetch(&looks, 1, __ATOMIC_SEQ_CST);
        if (look / (unsigned long)every % 2) now->tv_sec += step_s;
    }
    return result;
}
