/*
 * Preloaded into user-mode Linux 6.1, so that it runs on processors with a large extended state.
 *
 * User-mode Linux keeps the floating point and vector registers of its processes in a buffer of fixed size and moves
 * them by ptrace. The kernel refuses to set them from fewer bytes than the processor's state has (with AMX more than
 * 8000), and the guest stops with "ptrace set fp regs failed, errno = 14". Here the registers are read in full and cut
 * to what user-mode Linux asked for; when they are set, what it does not know is added as zeroes, and the header says
 * that those parts are unused. No program in a guest uses them, since the guest's kernel does not offer them.
 *
 * Sources: ptrace(2), PTRACE_GETREGSET with NT_X86_XSTATE; Intel SDM volume 1, 13.4, "XSAVE area".
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PEEK_FIRST = 1, PEEK_LAST = 3, GET_REGISTERS = 0x4204, SET_REGISTERS = 0x4205, EXTENDED_STATE = 0x202 };
enum { LARGEST = 65536, HEADER = 512, KNOWN = 2752 };

/* Tile configuration and tile data of AMX in the header's bitmap of parts in use. */
static const uint64_t TILES = 3ULL << 17;

static size_t whole; /* bytes of this processor's state, once known */

static long move_state(int request, long pid, struct iovec *wanted)
{
	static __thread char state[LARGEST] __attribute__((aligned(64)));
	struct iovec all = { state, sizeof state };
	long result;

	if (request == GET_REGISTERS || !whole) {
		result = syscall(SYS_ptrace, GET_REGISTERS, pid, EXTENDED_STATE, &all);
		if (result)
			return result;
		whole = all.iov_len;
	}
	size_t length = wanted->iov_len < whole ? wanted->iov_len : whole;
	if (request == GET_REGISTERS) {
		memcpy(wanted->iov_base, state, length);
		wanted->iov_len = length;
		return 0;
	}
	memset(state, 0, whole);
	memcpy(state, wanted->iov_base, length);
	if (length <= KNOWN)
		*(uint64_t *)(state + HEADER) &= ~TILES;
	all.iov_len = whole;
	return syscall(SYS_ptrace, SET_REGISTERS, pid, EXTENDED_STATE, &all);
}

long ptrace(int request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	long pid = va_arg(arguments, int);
	unsigned long address = va_arg(arguments, unsigned long);
	void *data = va_arg(arguments, void *);
	va_end(arguments);

	if ((request == GET_REGISTERS || request == SET_REGISTERS) && address == EXTENDED_STATE)
		return move_state(request, pid, data);
	if (request >= PEEK_FIRST && request <= PEEK_LAST) {
		/* The system call stores the word; the library's function returns it. */
		long word, result = syscall(SYS_ptrace, request, pid, address, &word);
		return result < 0 ? result : word;
	}
	return syscall(SYS_ptrace, request, pid, address, data);
}
