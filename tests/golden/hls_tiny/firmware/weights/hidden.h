// The constants of layer hidden, as plain integers.
#ifndef HIDDEN_CONSTANTS_H_
#define HIDDEN_CONSTANTS_H_

// hidden, [outputs][inputs]: -8..7 * 2^-3
static const signed char hidden_weights[4][3] = {
    {3, -5, 1},
    {-1, 2, 4},
    {0, 6, -8},
    {7, 0, 2}};

// hidden.bias [4]: -3..9 * 2^-5
static const signed char hidden_bias[4] = {
    5, -3, 0, 9};

#endif
