// The tree of the codes out of the page's data: its nodes, their addresses, and words for what they hold. Draws nothing.
"use strict";
const sidTree = (data) => {
  const numGroups = data.has_groups ? 1 : 0;
  const numColumns = data.columns.length;

  // ---- The tree: nodes over ranges of the items, which come in lexicographic order. y0..y1 is the share of all items.
  const root = { depth: 0, path: [], first: 0, end: data.ids.length, size: data.total, parent: null, y0: 0, y1: 1, hue: 0 };

  function grow(parents, column) {
    let number = 0;
    const made = [];
    for (const parent of parents) {
      parent.children = [];
      let y = parent.y0;
      for (let first = parent.first; first < parent.end;) {
        const code = data.columns[column][first];
        let end = first + 1;
        while (end < parent.end && data.columns[column][end] === code) end += 1;
        const size = data.counts[column][number];
        const hue = column > 0 ? parent.hue : data.has_groups ? (360 * number) / data.counts[0].length : (number * 137.508) % 360;
        const node = { depth: column + 1, path: [...parent.path, code], first, end, size, parent, hue,
          y0: y, y1: y + size / data.total, odd: parent.children.length % 2, children: [] };
        parent.children.push(node);
        made.push(node);
        y = node.y1;
        first = end;
        number += 1;
      }
    }
    return made;
  }

  let leaves = [root];
  for (let column = 0; column < numColumns; column += 1) leaves = grow(leaves, column);

  const groupOf = new Map(data.has_groups ? data.columns[1].map((code, row) => [code, data.columns[0][row]]) : []);

  function find(path) {
    let node = root;
    for (const code of path) {
      node = node.children.find((child) => child.path[node.depth] === code);
      if (!node) return null;
    }
    return node;
  }

  // An address is the codes, joined by "-"; a group, which has none, is its number after a "g".
  const codesOf = (node) => node.path.slice(numGroups);
  const isGroup = (node) => data.has_groups && node.depth === 1;
  const addressOf = (node) => (isGroup(node) ? `g${node.path[0]}` : codesOf(node).join("-"));

  function findAddress(address) {
    if (/^g\d+$/.test(address)) return data.has_groups ? find([Number(address.slice(1))]) : null;
    const codes = address.split("-").filter((part) => part !== "").map(Number);
    return find(codes.length && data.has_groups ? [groupOf.get(codes[0]), ...codes] : codes);
  }

  // ---- What a prefix is about: words and labels that are commoner in it than elsewhere.
  const wordsOf = (title) => new Set((title.toLowerCase().match(/\p{L}[\p{L}'-]{2,}/gu) || []));
  const titleWords = data.titles.map(wordsOf);

  function countWords(first, end) {
    const counts = new Map();
    for (let row = first; row < end; row += 1) for (const word of titleWords[row]) counts.set(word, (counts.get(word) || 0) + 1);
    return counts;
  }

  const allWords = countWords(0, data.ids.length);

  function typicalWords(node) {
    if (node.words) return node.words;
    const shown = node.end - node.first;
    const scored = [...countWords(node.first, node.end)]
      .filter(([, number]) => number > 1 || shown < 4)
      .filter(([word, number]) => number / shown > (2 * allWords.get(word)) / data.ids.length)
      .map(([word, number]) => [word, number * Math.log((number / shown) / (allWords.get(word) / data.ids.length))])
      .sort((a, b) => b[1] - a[1]);
    node.words = (node === root ? [] : scored.slice(0, 5)).map(([word]) => word);
    return node.words;
  }

  function topLabels(node, column, most) {
    const { names, of } = data.labels[column];
    const counts = new Map();
    for (let row = node.first; row < node.end; row += 1) if (of[row] >= 0) counts.set(of[row], (counts.get(of[row]) || 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]).slice(0, most)
      .map(([label, number]) => `${names[label]} ${Math.round((100 * number) / (node.end - node.first))}%`);
  }

  const isItem = (node) => node.depth === numColumns && node.size === 1;
  const lastCode = (node) => (isGroup(node) ? "" : String(node.path[node.depth - 1]));
  const nameOf = (node) => (node === root ? "All items" : isGroup(node) ? `Group of ${node.children.length} first codes` : addressOf(node));
  const describe = (node) => (node.end - node.first === 1 ? data.titles[node.first] : typicalWords(node).join(", "));

  return { root, findAddress, isGroup, addressOf, typicalWords, topLabels, isItem, lastCode, nameOf, describe };
};
