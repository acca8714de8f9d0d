// The constants of conv, as plain integers.
#ifndef CONV_CONSTANTS_H_
#define CONV_CONSTANTS_H_

// conv, [steps][2 outputs x 3 inputs]: -3..3 * 2^-2; a word of 6 weights for each step
static const STORED(ap_int<3>, signed char) conv_weights[6][6] = {
    {-3, 0, 3, 2, -2, 1},
    {-1, 2, -2, -3, 0, 3},
    {1, -3, 0, -1, 2, -2},
    {3, -1, 2, 1, -3, 0},
    {-2, 1, -3, 3, -1, 2},
    {0, 3, -1, -2, 1, -3}};

#endif
