/* Mapping the file behind a memory region, and letting go of it. mmap(2).
 *
 * In builds with sanitizers (setup.py defines FASTVHOST_GUARD_PAGES) a page without any access lies on either side of
 * each mapping: guest memory is no heap, so that AddressSanitizer alone would not see an access that runs over the end
 * of one region into the next. Such an access faults there with SIGSEGV, which fault_guard.h leaves alone.
 */
#ifndef FASTVHOST_MAP_REGION_H
#define FASTVHOST_MAP_REGION_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/types.h>

#ifndef FASTVHOST_GUARD_PAGES
#define FASTVHOST_GUARD_PAGES 0
#endif

/* bytes and offset: multiples of the file's page size `page`. MAP_FAILED and errno as from mmap. */
static void *map_region(size_t bytes, size_t page, int flags, int fd, off_t offset)
{
    if (!FASTVHOST_GUARD_PAGES)
        return mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, fd, offset);
    size_t reserved = bytes + 3 * page;   /* two guard pages, and room to align what lies between them */
    if (reserved < bytes) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    uint8_t *start = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return MAP_FAILED;
    uint8_t *base = (uint8_t *)(((uintptr_t)start + page + page - 1) / page * page);
    if (mmap(base, bytes, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, offset) == MAP_FAILED) {
        int reason = errno;
        munmap(start, reserved);
        errno = reason;
        return MAP_FAILED;
    }
    if (base - page > start)
        munmap(start, base - page - start);
    if (base + bytes + page < start + reserved)
        munmap(base + bytes + page, start + reserved - (base + bytes + page));
    return base;
}

/* With the same bytes and page. */
static void unmap_region(uint8_t *base, size_t bytes, size_t page)
{
    if (FASTVHOST_GUARD_PAGES)
        munmap(base - page, bytes + 2 * page);
    else
        munmap(base, bytes);
}

#endif
