/*
 * Makes the n-th call of one kind fail: preloaded (LD_PRELOAD) into the process that tests/faults.py starts.
 *
 * Nothing is counted, and nothing fails, until the process asks for it: it looks for the status of the path
 * "//faults/begin", or, where FAULT_MARK is set, of one that ends with that. Then the call of the kind FAULT_KIND
 * with the number FAULT_N, from 1, fails with FAULT_ERRNO, and with FAULT_LASTS all that follow do. A child that is forked is left alone. FAULT_COUNTS
 * is a file of one 64-bit number for each kind, in the order of `kinds`, and one more: how often it struck.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define KINDS(X)                                                                                              \
  X(open) X(read) X(write) X(close) X(stat) X(statvfs) X(opendir) X(readdir) X(mkdir) X(unlink) X(rename)     \
  X(link) X(fsync) X(chmod) X(pipe) X(spawn) X(thread) X(poll) X(fcntl) X(mmap) X(wait) X(kill) X(getcwd)     \
  X(readlink) X(copy) X(dup) X(socket) X(connect) X(prctl) X(syscall) X(seek) X(affinity) X(fork)

enum kind {
#define X(name) kind_##name,
  KINDS(X)
#undef X
  n_kinds
};
static const char *const kinds[] = {
#define X(name) #name,
  KINDS(X)
#undef X
};

static pid_t active;
static int fault_kind = -1, fault_errno, lasts;
static uint64_t fault_n;
static const char *mark;
static uint64_t *counts;
static uint64_t nowhere[n_kinds + 1];

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

static void begin(void) {
  const char *kind = getenv("FAULT_KIND"), *n = getenv("FAULT_N"), *number = getenv("FAULT_ERRNO");
  const char *path = getenv("FAULT_COUNTS");
  counts = nowhere;
  if (path) {
    int (*open_file)(const char *, int, ...) = real("open64");
    int (*close_file)(int) = real("close");
    void *(*map)(void *, size_t, int, int, int, off64_t) = real("mmap64");
    int file = open_file(path, O_RDWR | O_CLOEXEC);
    void *mapped = map(NULL, sizeof nowhere, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close_file(file);
    if (mapped == MAP_FAILED) abort();
    counts = mapped;
  }
  for (int i = 0; kind && i < n_kinds; i++)
    if (strcmp(kind, kinds[i]) == 0) fault_kind = i;
  fault_n = n ? strtoull(n, NULL, 10) : 0;
  lasts = getenv("FAULT_LASTS") != NULL;
  fault_errno = number ? atoi(number) : 0;
  active = getpid();
}

static int ends_with(const char *text, const char *end) {
  size_t n = strlen(text), m = strlen(end);
  return n >= m && strcmp(text + n - m, end) == 0;
}

static void look_for_mark(const char *path) {
  if (active || !path) return;
  if (!mark) {
    mark = getenv("FAULT_MARK");
    if (!mark) mark = "";
  }
  if (*mark ? ends_with(path, mark) : strcmp(path, "//faults/begin") == 0) begin();
}

/* Whether this call is to fail; then errno says with what. */
static int strikes(enum kind kind) {
  if (!active || active != getpid()) return 0;
  uint64_t n = __atomic_add_fetch(&counts[kind], 1, __ATOMIC_SEQ_CST);
  if ((int)kind != fault_kind || (lasts ? n < fault_n : n != fault_n)) return 0;
  __atomic_add_fetch(&counts[n_kinds], 1, __ATOMIC_SEQ_CST);
  errno = fault_errno;
  return 1;
}

#define CALL(type, failed, kind, name, parameters, arguments)                                                 \
  type name parameters {                                                                                      \
    static type(*next) parameters;                                                                            \
    if (!next) next = real(#name);                                                                            \
    if (strikes(kind_##kind)) return failed;                                                                  \
    return next arguments;                                                                                    \
  }

/* Those with a path, by which a process can ask for the begin. */
#define CALL_OF_PATH(type, failed, kind, name, parameters, arguments)                                         \
  type name parameters {                                                                                      \
    static type(*next) parameters;                                                                            \
    if (!next) next = real(#name);                                                                            \
    look_for_mark(path);                                                                                      \
    if (strikes(kind_##kind)) return failed;                                                                  \
    return next arguments;                                                                                    \
  }

#define OPEN(name, parameters, arguments, last)                                                               \
  int name parameters {                                                                                       \
    static int(*next) parameters;                                                                             \
    va_list list;                                                                                             \
    va_start(list, last);                                                                                     \
    int mode = va_arg(list, int);                                                                             \
    va_end(list);                                                                                             \
    if (!next) next = real(#name);                                                                            \
    if (strikes(kind_open)) return -1;                                                                        \
    return next arguments;                                                                                    \
  }
OPEN(open, (const char *path, int flags, ...), (path, flags, mode), flags)
OPEN(open64, (const char *path, int flags, ...), (path, flags, mode), flags)
OPEN(openat, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), flags)
OPEN(openat64, (int folder, const char *path, int flags, ...), (folder, path, flags, mode), flags)

CALL(ssize_t, -1, read, read, (int file, void *data, size_t n), (file, data, n))
CALL(ssize_t, -1, read, pread, (int file, void *data, size_t n, off_t at), (file, data, n, at))
CALL(ssize_t, -1, read, pread64, (int file, void *data, size_t n, off64_t at), (file, data, n, at))
CALL(ssize_t, -1, write, write, (int file, const void *data, size_t n), (file, data, n))
CALL(ssize_t, -1, write, pwrite, (int file, const void *data, size_t n, off_t at), (file, data, n, at))
CALL(ssize_t, -1, write, pwrite64, (int file, const void *data, size_t n, off64_t at), (file, data, n, at))

/* As the kernel does: the descriptor is gone, whatever it says. */
int close(int file) {
  static int (*next)(int);
  if (!next) next = real("close");
  int answer = next(file);
  return strikes(kind_close) ? -1 : answer;
}

CALL_OF_PATH(int, -1, stat, stat, (const char *path, struct stat *status), (path, status))
CALL_OF_PATH(int, -1, stat, stat64, (const char *path, struct stat64 *status), (path, status))
CALL(int, -1, stat, lstat, (const char *path, struct stat *status), (path, status))
CALL(int, -1, stat, lstat64, (const char *path, struct stat64 *status), (path, status))
CALL(int, -1, stat, fstat, (int file, struct stat *status), (file, status))
CALL(int, -1, stat, fstat64, (int file, struct stat64 *status), (file, status))
CALL_OF_PATH(int, -1, stat, fstatat, (int folder, const char *path, struct stat *status, int flags),
             (folder, path, status, flags))
CALL_OF_PATH(int, -1, stat, fstatat64, (int folder, const char *path, struct stat64 *status, int flags),
             (folder, path, status, flags))
CALL_OF_PATH(int, -1, stat, statx,
             (int folder, const char *path, int flags, unsigned int mask, struct statx *status),
             (folder, path, flags, mask, status))
CALL(int, -1, stat, access, (const char *path, int mode), (path, mode))
CALL(int, -1, stat, faccessat, (int folder, const char *path, int mode, int flags), (folder, path, mode, flags))
CALL(int, -1, statvfs, statvfs, (const char *path, struct statvfs *status), (path, status))
CALL(int, -1, statvfs, statvfs64, (const char *path, struct statvfs64 *status), (path, status))
CALL(int, -1, statvfs, fstatvfs, (int file, struct statvfs *status), (file, status))
CALL(int, -1, statvfs, fstatvfs64, (int file, struct statvfs64 *status), (file, status))
CALL(DIR *, NULL, opendir, opendir, (const char *path), (path))
CALL(DIR *, NULL, opendir, fdopendir, (int file), (file))
CALL(struct dirent *, NULL, readdir, readdir, (DIR * folder), (folder))
CALL(struct dirent64 *, NULL, readdir, readdir64, (DIR * folder), (folder))
CALL(int, -1, mkdir, mkdir, (const char *path, mode_t mode), (path, mode))
CALL(int, -1, mkdir, mkdirat, (int folder, const char *path, mode_t mode), (folder, path, mode))
CALL(int, -1, unlink, unlink, (const char *path), (path))
CALL(int, -1, unlink, unlinkat, (int folder, const char *path, int flags), (folder, path, flags))
CALL(int, -1, unlink, rmdir, (const char *path), (path))
CALL(int, -1, rename, rename, (const char *from, const char *to), (from, to))
CALL(int, -1, rename, renameat, (int f, const char *from, int t, const char *to), (f, from, t, to))
CALL(int, -1, link, link, (const char *from, const char *to), (from, to))
CALL(int, -1, link, linkat, (int f, const char *from, int t, const char *to, int flags), (f, from, t, to, flags))
CALL(int, -1, fsync, fsync, (int file), (file))
CALL(int, -1, fsync, fdatasync, (int file), (file))
CALL(int, -1, fsync, syncfs, (int file), (file))
CALL(int, -1, chmod, chmod, (const char *path, mode_t mode), (path, mode))
CALL(int, -1, chmod, fchmod, (int file, mode_t mode), (file, mode))
CALL(int, -1, pipe, pipe, (int ends[2]), (ends))
CALL(int, -1, pipe, pipe2, (int ends[2], int flags), (ends, flags))
CALL(int, errno, spawn, posix_spawn,
     (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
      char *const argv[], char *const environment[]),
     (pid, path, actions, attributes, argv, environment))
CALL(int, errno, spawn, posix_spawnp,
     (pid_t * pid, const char *path, const posix_spawn_file_actions_t *actions, const posix_spawnattr_t *attributes,
      char *const argv[], char *const environment[]),
     (pid, path, actions, attributes, argv, environment))
CALL(pid_t, -1, fork, fork, (void), ())
CALL(int, errno, thread, pthread_create,
     (pthread_t * thread, const pthread_attr_t *attributes, void *(*act)(void *), void *argument),
     (thread, attributes, act, argument))
CALL(int, -1, poll, poll, (struct pollfd * files, nfds_t n, int wait), (files, n, wait))
CALL(int, -1, poll, select, (int n, fd_set *r, fd_set *w, fd_set *x, struct timeval *wait), (n, r, w, x, wait))

#define FCNTL(name)                                                                                           \
  int name(int file, int command, ...) {                                                                      \
    static int (*next)(int, int, ...);                                                                        \
    va_list list;                                                                                             \
    va_start(list, command);                                                                                  \
    void *argument = va_arg(list, void *);                                                                    \
    va_end(list);                                                                                             \
    if (!next) next = real(#name);                                                                            \
    if (strikes(kind_fcntl)) return -1;                                                                       \
    return next(file, command, argument);                                                                     \
  }
FCNTL(fcntl)
FCNTL(fcntl64)

CALL(void *, MAP_FAILED, mmap, mmap, (void *at, size_t n, int may, int flags, int file, off_t from),
     (at, n, may, flags, file, from))
CALL(void *, MAP_FAILED, mmap, mmap64, (void *at, size_t n, int may, int flags, int file, off64_t from),
     (at, n, may, flags, file, from))
CALL(pid_t, -1, wait, waitpid, (pid_t pid, int *status, int flags), (pid, status, flags))
CALL(pid_t, -1, wait, wait4, (pid_t pid, int *status, int flags, struct rusage *use), (pid, status, flags, use))
CALL(int, -1, wait, waitid, (idtype_t kind, id_t id, siginfo_t *said, int flags), (kind, id, said, flags))
CALL(int, -1, kill, kill, (pid_t pid, int number), (pid, number))
CALL(int, -1, kill, killpg, (pid_t group, int number), (group, number))
CALL(char *, NULL, getcwd, getcwd, (char *path, size_t n), (path, n))
CALL(ssize_t, -1, readlink, readlink, (const char *path, char *to, size_t n), (path, to, n))
CALL(ssize_t, -1, readlink, readlinkat, (int folder, const char *path, char *to, size_t n), (folder, path, to, n))
CALL(ssize_t, -1, copy, sendfile, (int to, int from, off_t *at, size_t n), (to, from, at, n))
CALL(ssize_t, -1, copy, sendfile64, (int to, int from, off64_t *at, size_t n), (to, from, at, n))
CALL(ssize_t, -1, copy, copy_file_range,
     (int from, off64_t *read_at, int to, off64_t *write_at, size_t n, unsigned int flags),
     (from, read_at, to, write_at, n, flags))
CALL(int, -1, dup, dup, (int file), (file))
CALL(int, -1, dup, dup2, (int file, int as), (file, as))
CALL(int, -1, dup, dup3, (int file, int as, int flags), (file, as, flags))
CALL(int, -1, socket, socket, (int family, int type, int protocol), (family, type, protocol))
CALL(int, -1, connect, connect, (int file, const struct sockaddr *to, socklen_t n), (file, to, n))
CALL(int, -1, prctl, prctl, (int what, unsigned long a, unsigned long b, unsigned long c, unsigned long d),
     (what, a, b, c, d))
long syscall(long number, ...) {
  static long (*next)(long, ...);
  va_list list;
  long given[6];
  va_start(list, number);
  for (int i = 0; i < 6; i++) given[i] = va_arg(list, long);
  va_end(list);
  if (!next) next = real("syscall");
  if (strikes(kind_syscall)) return -1;
  return next(number, given[0], given[1], given[2], given[3], given[4], given[5]);
}

CALL(off_t, -1, seek, lseek, (int file, off_t at, int from), (file, at, from))
CALL(off64_t, -1, seek, lseek64, (int file, off64_t at, int from), (file, at, from))
CALL(int, -1, affinity, sched_getaffinity, (pid_t pid, size_t n, cpu_set_t *set), (pid, n, set))
