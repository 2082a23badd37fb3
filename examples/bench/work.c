/* A program to measure: counts different numbers with a hash table, 100 passes over as many numbers as it is told, drawn
   from a seed. It checks its own answer, so that a build that is fast and wrong fails. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 100 };

/* A third of the numbers are different ones. */
static uint32_t number(uint64_t *state, uint32_t size)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % (size / 3 + 1) + 1;
}

static uint32_t pass(uint32_t *table, uint32_t mask, uint32_t size, uint64_t state)
{
    uint32_t different = 0;
    memset(table, 0, ((size_t)mask + 1) * sizeof *table);
    for (uint32_t i = 0; i < size; i++) {
        uint32_t value = number(&state, size);
        uint32_t at = value * 2654435761u & mask;
        while (table[at] != 0 && table[at] != value)
            at = (at + 1) & mask;
        different += table[at] == 0;
        table[at] = value;
    }
    return different;
}

int main(int argc, char **argv)
{
    uint32_t size = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 20000;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 42;
    uint32_t mask = 1;
    while (mask < 2 * size)
        mask = mask * 2 + 1;
    uint32_t *table = malloc(((size_t)mask + 1) * sizeof *table);
    unsigned char *seen = calloc((size_t)size / 3 + 2, 1);
    if (table == NULL || seen == NULL)
        return 2;
    uint32_t different = 0;
    for (int i = 0; i < PASSES; i++)
        different = pass(table, mask, size, seed);
    uint32_t expected = 0;
    uint64_t state = seed;
    for (uint32_t i = 0; i < size; i++) {
        uint32_t value = number(&state, size);
        expected += !seen[value];
        seen[value] = 1;
    }
    printf("%u different numbers of %u\n", different, size);
    return different == expected ? 0 : 1;
}
