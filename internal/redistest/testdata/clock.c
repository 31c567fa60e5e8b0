/* The clock of a process is what the machine's shows and as many microseconds more as
 * stand in the file that PRESENCE_CLOCK names. Loaded before the C library. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void begin(void) {
	const char *path = getenv("PRESENCE_CLOCK");
	int fd = path ? open(path, O_RDONLY) : -1;
	void *page = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, fd, 0);
	if (page != MAP_FAILED) ahead = page;
	if (fd >= 0) close(fd);
}

int clock_gettime(clockid_t id, struct timespec *at) {
	int failed = (int)syscall(SYS_clock_gettime, id, at);
	if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
		int64_t us = *ahead + at->tv_nsec / 1000;
		at->tv_sec += us / 1000000;
		us %= 1000000;
		if (us < 0) us += 1000000, at->tv_sec--;
		at->tv_nsec = us * 1000;
	}
	return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
	struct timespec now;
	(void)zone;
	if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
	at->tv_sec = now.tv_sec;
	at->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *at) {
	struct timespec now;
	if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
	if (at) *at = now.tv_sec;
	return now.tv_sec;
}
