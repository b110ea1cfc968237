/* Reads memory as fast as a thread can: equal pieces side by side, a cache line of each in turn.
 * bandwidth.py compiles it with the compiler that Python names, and calls it. */
#include <stddef.h>
#include <stdint.h>

enum { LINE_WORDS = 8 };

/* Returns the exclusive or of all words, so that no load can be left out. `words` is a multiple of
 * LINE_WORDS * streams. */
uint64_t read_streams(const uint64_t *data, size_t words, int streams)
{
    uint64_t mixed[LINE_WORDS] = {0};
    size_t piece = words / (size_t)streams;
    for (size_t i = 0; i < piece; i += LINE_WORDS)
        for (int stream = 0; stream < streams; stream++)
            for (int word = 0; word < LINE_WORDS; word++)
                mixed[word] ^= data[(size_t)stream * piece + i + (size_t)word];
    uint64_t all = 0;
    for (int word = 0; word < LINE_WORDS; word++)
        all ^= mixed[word];
    return all;
}
