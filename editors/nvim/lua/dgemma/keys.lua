--- Keys that mean something while a suggestion is visible, and otherwise what they meant before.
local config = require('dgemma.config')

local M = {}

--- How the descriptions of our mappings begin.
local OURS = 'dgemma: '

---@alias dgemma.Mapping table<string, any> as `maparg()` gives it

--- What a buffer's own mappings were before ours.
---@type table<integer, table<string, dgemma.Mapping|false>>
local before = {}

---@param lhs string
---@return string
local function bytes(lhs)
  return vim.api.nvim_replace_termcodes(lhs, true, true, true)
end

--- What a key would do without our mapping.
---@param bufnr integer
---@param lhs string
---@return dgemma.Mapping?
local function original(bufnr, lhs)
  if before[bufnr] and before[bufnr][lhs] then
    return before[bufnr][lhs]
  end
  for _, mapping in ipairs(vim.api.nvim_get_keymap('i')) do
    if (mapping.lhsraw or bytes(mapping.lhs)) == bytes(lhs) or mapping.lhsrawalt == bytes(lhs) then
      return mapping
    end
  end
end

--- Do what the key would have done. Keys that were typed meanwhile wait until that is done.
---@param bufnr integer
---@param lhs string
local function pass_on(bufnr, lhs)
  local mapping = original(bufnr, lhs)
  if mapping then
    -- The same mapping under a name of its own, so that Neovim itself runs it, with all that belongs to it.
    local name = ('<Plug>(dgemma-%s)'):format(lhs:gsub('[<>]', ''))
    local copy = { lhs = name, lhsraw = bytes(name), lhsrawalt = false, buffer = 0, mode = 'i', abbr = 0 }
    local refers_to_itself = vim.startswith(mapping.rhs or '', mapping.lhs)
    copy = vim.tbl_extend('force', mapping, copy, refers_to_itself and { noremap = 1 } or {})
    copy.lhsrawalt = nil
    vim.fn.mapset('i', false, copy)
    vim.api.nvim_feedkeys(bytes(name), 'mi', false)
  else
    -- Typed, a key with Alt is Escape and the key where nothing is mapped to it; fed, it would be text.
    local plain = lhs:gsub('^<[MA]%-(.+)>$', function(key)
      return '<Esc>' .. (#key == 1 and key or key == '\\' and key or '<' .. key .. '>')
    end)
    vim.api.nvim_feedkeys(bytes(plain), 'ni', false)
  end
end

--- Plugins that show a menu or a snippet of their own, and how they are asked whether they do.
local PLUGINS = {
  { module = 'cmp', call = 'visible' },
  { module = 'blink.cmp', call = 'is_menu_visible' },
  { module = 'luasnip', call = 'locally_jumpable', argument = 1 },
}

--- Whether Tab has something better to do than to accept.
---@param visible dgemma.Suggestion
---@return boolean
local function means_something_else(visible)
  if vim.fn.pumvisible() == 1 or vim.snippet.active({ direction = 1 }) then
    return true
  end
  for _, plugin in ipairs(PLUGINS) do
    local loaded = package.loaded[plugin.module]
    local call = type(loaded) == 'table' and loaded[plugin.call]
    if call and call(plugin.argument) then
      return true
    end
  end
  -- At the beginning of a line, before a suggestion that is indented further: it indents.
  return visible.before:find('%S') == nil and visible.text:find('^[ \t]') ~= nil
end

---@type table<string, fun(bufnr: integer): boolean> false: the key is not for us
local actions = {
  accept = function(bufnr)
    local visible = require('dgemma.inline').visible(bufnr)
    local lhs = config.options.keys.accept:lower()
    if not visible or (lhs == '<tab>' and means_something_else(visible)) then
      return false
    end
    return require('dgemma').accept()
  end,
  accept_word = function()
    return require('dgemma').accept_word()
  end,
  accept_line = function()
    return require('dgemma').accept_line()
  end,
  next = function()
    return require('dgemma').next()
  end,
  previous = function()
    return require('dgemma').previous()
  end,
  dismiss = function()
    return require('dgemma').dismiss()
  end,
  suggest = function(bufnr)
    if original(bufnr, config.options.keys.suggest) then
      return false
    end
    require('dgemma').suggest()
    return true
  end,
}

--- Plugins that map a key over ours and pass it on when they have nothing to do with it, by their descriptions.
local PASSES_ON = { ['blink.cmp'] = 'blink.cmp', ['cmp.utils.keymap.set_map'] = 'nvim-cmp' }

--- Whose a mapping is, for people.
---@param mapping dgemma.Mapping
---@return string
local function owner(mapping)
  if (mapping.desc or '') ~= '' then
    return PASSES_ON[mapping.desc] or mapping.desc
  elseif (mapping.rhs or '') ~= '' then
    return mapping.rhs
  end
  return mapping.callback and debug.getinfo(mapping.callback, 'S').short_src or 'another mapping'
end

---@class dgemma.Conflict
---@field lhs string the key
---@field action string what it is to do for us
---@field owner string who has mapped it, too
---@field is_lost boolean it does not come to us

--- Keys of ours that somebody else has mapped, too: before us, so that we pass them on, or over ours.
---@param bufnr integer
---@return dgemma.Conflict[]
function M.conflicts(bufnr)
  local found = {}
  for name in vim.spairs(before[bufnr] and actions or {}) do
    local lhs = config.options.keys[name]
    if lhs then
      local now = vim.api.nvim_buf_call(bufnr, function()
        return vim.fn.maparg(lhs, 'i', false, true)
      end)
      local is_ours = vim.startswith(now.desc or '', OURS)
      local other = is_ours and original(bufnr, lhs) or not is_ours and now or nil
      if other then
        local is_lost = name == 'suggest' or not is_ours and not PASSES_ON[other.desc]
        table.insert(found, { lhs = lhs, action = name, owner = owner(other), is_lost = is_lost })
      end
    end
  end
  return found
end

local told = false

--- Say which keys do not come to us, once.
---@param bufnr integer
function M.tell_conflicts(bufnr)
  local lost = vim.tbl_filter(function(conflict)
    return conflict.is_lost
  end, M.conflicts(bufnr))
  if told or #lost == 0 then
    return
  end
  told = true
  local shown = vim.tbl_map(function(conflict)
    return ('%s (%s) by %s'):format(conflict.lhs, conflict.action, conflict.owner)
  end, lost)
  local message = 'dgemma: keys that are mapped already: %s; see :checkhealth dgemma'
  vim.notify(message:format(table.concat(shown, ', ')), vim.log.levels.WARN)
end

---@param bufnr integer
function M.attach(bufnr)
  if before[bufnr] then
    return
  end
  before[bufnr] = {}
  for name, act in pairs(actions) do
    local lhs = config.options.keys[name]
    if lhs then
      local mapping = vim.fn.maparg(lhs, 'i', false, true)
      before[bufnr][lhs] = mapping.buffer == 1 and mapping or false
      vim.keymap.set('i', lhs, function()
        if not act(bufnr) then
          pass_on(bufnr, lhs)
        end
      end, { buffer = bufnr, desc = OURS .. name:gsub('_', ' ') })
    end
  end
end

---@param bufnr integer
function M.detach(bufnr)
  local mappings = before[bufnr] or {}
  before[bufnr] = nil
  if not vim.api.nvim_buf_is_loaded(bufnr) then
    return
  end
  vim.api.nvim_buf_call(bufnr, function()
    for lhs, mapping in pairs(mappings) do
      local ours = vim.fn.maparg(lhs, 'i', false, true)
      if ours.buffer == 1 and vim.startswith(ours.desc or '', OURS) then
        vim.keymap.del('i', lhs, { buffer = bufnr })
        if mapping then
          vim.fn.mapset('i', false, mapping)
        end
      end
    end
  end)
end

return M
