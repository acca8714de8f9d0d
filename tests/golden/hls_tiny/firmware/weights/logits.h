// The constants of layer logits, as plain integers.
#ifndef LOGITS_CONSTANTS_H_
#define LOGITS_CONSTANTS_H_

// logits, [outputs][inputs]: -4..10 * 2^-1
static const signed char logits_weights[2][4] = {
    {1, 3, -1, 2},
    {-4, 0, 2, 10}};

// narrow: lo
static const signed char narrow_lo[2] = {
    -16, -4};

// narrow: hi
static const signed char narrow_hi[2] = {
    15, 5};

// square: entry n is the result for (n -4) * 2^1, as 0..72 * 2^-3
static const signed char square_table[17] = {
    8, 4, 2, 0, 0, 0, 2, 4, 8, 12, 18, 24, 32, 40, 50, 60, 72};

#endif
