# Draws the cells of compare.sh as an SVG: for each load a bar a broker, the longest of a load as long as the others'.
# Input: the names of the brokers, then lines of load, figure, title and a value a broker, separated by tabs.

NR == 1 {
    brokers = NF - 1
    for (i = 1; i <= brokers; i++) name[i] = $i
    next
}

{
    rows++
    title[rows] = $3
    for (i = 1; i <= brokers; i++) {
        value[rows, i] = $(3 + i)
        if ($(3 + i) + 0 > most[rows]) most[rows] = $(3 + i) + 0
    }
}

END {
    split("#1f6fb4 #9aa5b1 #d9822b #5aa469 #a05195 #c44e52 #8c6d46", colour, " ")
    bar = 15; left = 110; width = 560
    group = brokers * bar + 34
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"800\" height=\"%d\" ", rows * group + 20
    print "font-family=\"sans-serif\" font-size=\"12\">"
    print "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    for (row = 1; row <= rows; row++) {
        top = (row - 1) * group + 24
        gsub(/&/, "\\&amp;", title[row])
        printf "<text x=\"10\" y=\"%d\" font-weight=\"bold\">%s</text>\n", top, title[row]
        for (i = 1; i <= brokers; i++) {
            y = top + 6 + (i - 1) * bar
            printf "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text>\n", left - 8, y + 11, name[i]
            if (value[row, i] == "") continue
            length_of_bar = most[row] > 0 ? value[row, i] / most[row] * width : 0
            printf "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", \
                left, y, length_of_bar, bar - 3, colour[(i - 1) % 7 + 1]
            printf "<text x=\"%.1f\" y=\"%d\">%s</text>\n", left + length_of_bar + 6, y + 11, value[row, i]
        }
    }
    print "</svg>"
}
